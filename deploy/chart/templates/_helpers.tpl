{{- /* Names, labels, and what several pods have in common. */ -}}

{{- define "maeve.fullname" -}}
{{- $name := ternary .Release.Name (printf "%s-maeve" .Release.Name) (contains "maeve" .Release.Name) -}}
{{- .Values.fullnameOverride | default $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- /* What selectors go by: it never changes in the life of a release. Takes (dict "root" $ "component" "service"). */ -}}
{{- define "maeve.selector" -}}
app.kubernetes.io/name: maeve
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "maeve.labels" -}}
{{ include "maeve.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{- define "maeve.hasSearch" -}}
{{- if or .Values.search.claim.name .Values.search.url -}}true{{- end -}}
{{- end -}}

{{- /* The target of deploy/Dockerfile that has what the values need, unless a tag or a digest is given. */ -}}
{{- define "maeve.image" -}}
{{- $target := "service" -}}
{{- if .Values.gpu.enabled }}{{ $target = "service-gpu" }}{{ else if include "maeve.hasSearch" . }}{{ $target = "service-search" }}{{ end -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $target }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "maeve.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "maeve.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "maeve.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "maeve.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{- /* A number as the service reads it: 33554432, where a template would print 3.3554432e+07. */ -}}
{{- define "maeve.setting" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{- define "maeve.hasKeys" -}}
{{- if or .Values.apiKeys.entries .Values.apiKeys.existingSecret -}}true{{- end -}}
{{- end -}}

{{- define "maeve.hasExternalRedis" -}}
{{- if or .Values.externalRedis.url .Values.externalRedis.existingSecret -}}true{{- end -}}
{{- end -}}

{{- /* Whether the pods may use every core of their node, so that cores have to be counted for them. */ -}}
{{- define "maeve.coresAreOpen" -}}
{{- if not (dig "limits" "cpu" "" .Values.resources) -}}true{{- end -}}
{{- end -}}

{{- /* Which setting counts the cores: lanes of the model on a CPU, threads that decode beside a GPU. */ -}}
{{- define "maeve.coresSetting" -}}
{{- ternary "MAEVE_DECODE_THREADS" "MAEVE_LANES" .Values.gpu.enabled -}}
{{- end -}}

{{- /* The wait before SIGTERM, the drain after it, and 15 s in which the processes end. */ -}}
{{- define "maeve.graceSeconds" -}}
{{- $drain := .Values.settings.MAEVE_DRAIN_S | default 30 -}}
{{- add .Values.preStopSeconds (ceil $drain | int) 15 -}}
{{- end -}}
