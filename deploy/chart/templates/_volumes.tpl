{{- /* What is mounted, and the init container that brings a bundle. */ -}}
{{- define "maeve.hasCopiedBundle" -}}
{{- if or .Values.bundle.fetch.source .Values.bundle.image.reference -}}true{{- end -}}
{{- end -}}

{{- define "maeve.volumes" -}}
- name: tmp # sockets and counts of several processes
  emptyDir: { medium: Memory, sizeLimit: 64Mi }
{{- if include "maeve.hasCopiedBundle" . }}
- name: bundle
  emptyDir: { sizeLimit: {{ .Values.bundle.sizeLimit }} }
{{- end }}
{{- $claims := dict "bundle" .Values.bundle.claim "index" .Values.search.claim "thumbnails" .Values.search.thumbnails }}
{{- range $volume, $claim := $claims }}
{{- with $claim.name }}
- name: {{ $volume }}
  persistentVolumeClaim: { claimName: {{ . }}, readOnly: true }
{{- end }}
{{- end }}
{{- with .Values.externalRedis.caSecret }}
- name: redis-ca
  secret: { secretName: {{ . }}, items: [{ key: ca.crt, path: ca.crt }] }
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "maeve.mounts" -}}
- { name: tmp, mountPath: /tmp }
{{- if include "maeve.hasCopiedBundle" . }}
- { name: bundle, mountPath: /bundle, readOnly: true }
{{- end }}
{{- $claims := dict "bundle" .Values.bundle.claim "index" .Values.search.claim "thumbnails" .Values.search.thumbnails }}
{{- range $volume, $claim := $claims }}
{{- if $claim.name }}
- name: {{ $volume }}
  mountPath: /{{ $volume }}
  readOnly: true
  {{- with $claim.subPath }}
  subPath: {{ . }}
  {{- end }}
{{- end }}
{{- end }}
{{- if .Values.externalRedis.caSecret }}
- { name: redis-ca, mountPath: /etc/maeve/redis, readOnly: true }
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Into an empty volume at /target. Half a copy is never served: the service holds every file against the manifest. */ -}}
{{- define "maeve.initContainers" -}}
{{- with .Values.bundle.fetch }}
{{- if .source }}
- name: bundle
  image: {{ .image }}
  args: [sync, --config=, --copy-links, --stats-one-line, --verbose, {{ .source | quote }}, /target]
  env: [{ name: HOME, value: /tmp }]
  {{- with .existingSecret }}
  envFrom: [{ secretRef: { name: {{ . }} } }]
  {{- end }}
  {{- include "maeve.initContainer.rest" . | nindent 2 }}
{{- end }}
{{- end }}
{{- with .Values.bundle.image }}
{{- if .reference }}
- name: bundle
  image: {{ .reference }}
  command: [cp, -Rf, {{ printf "%s/." (trimSuffix "/" .path) | quote }}, /target]
  {{- include "maeve.initContainer.rest" . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "maeve.initContainer.rest" -}}
securityContext:
  {{- include "maeve.containerSecurity" . | nindent 2 }}
resources:
  requests: { cpu: 100m, memory: 128Mi }
  limits: { memory: 512Mi }
volumeMounts:
  - { name: bundle, mountPath: /target }
  - { name: tmp, mountPath: /tmp }
{{- end -}}
