{{- /* The variables of the service. */ -}}
{{- define "maeve.env" -}}
- { name: MAEVE_BUNDLE, value: /bundle }
{{- if include "maeve.hasKeys" . }}
- name: MAEVE_API_KEYS
  valueFrom:
    secretKeyRef:
      name: {{ .Values.apiKeys.existingSecret | default (include "maeve.fullname" .) }}
      key: {{ ternary .Values.apiKeys.existingSecretKey "api-keys" (not (empty .Values.apiKeys.existingSecret)) }}
{{- end }}
{{- include "maeve.env.redis" . }}
{{- if .Values.search.url }}
- { name: MAEVE_SEARCH_INDEX, value: {{ .Values.search.url | quote }} }
{{- else if .Values.search.claim.name }}
- { name: MAEVE_SEARCH_INDEX, value: /index }
{{- end }}
{{- if .Values.search.thumbnails.name }}
- { name: MAEVE_THUMBNAILS, value: /thumbnails }
{{- end }}
{{- if and .Values.gpu.enabled (not .Values.settings.MAEVE_DEVICE) (not .Values.settings.MAEVE_DEVICES) }}
- { name: MAEVE_DEVICE, value: cuda }
{{- end }}
{{- $cores := include "maeve.coresSetting" . }}
{{- if and (include "maeve.coresAreOpen" .) (not (hasKey .Values.settings $cores)) }}
- name: {{ $cores }}
  valueFrom:
    resourceFieldRef: { containerName: maeve, resource: requests.cpu, divisor: "1" }
{{- end }}
{{- range $name, $value := .Values.settings }}
- { name: {{ $name }}, value: {{ include "maeve.setting" $value | quote }} }
{{- end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "maeve.env.redis" -}}
{{- if .Values.redis.enabled }}
- { name: MAEVE_REDIS_URL, value: "redis://{{ include "maeve.fullname" . }}-redis:6379/0" }
{{- else if .Values.externalRedis.url }}
- { name: MAEVE_REDIS_URL, value: {{ .Values.externalRedis.url | quote }} }
{{- else if .Values.externalRedis.existingSecret }}
- name: MAEVE_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.externalRedis.existingSecret }}
      key: {{ .Values.externalRedis.existingSecretKey }}
{{- end }}
{{- end -}}
