{{- /* What no schema can see: values that exclude or need each other. A line for each, or nothing. */ -}}
{{- define "maeve.complaints" -}}
{{- $v := .Values -}}
{{- if and $v.autoscaling.enabled (not (kindIs "invalid" $v.replicas)) }}
- replicas ({{ $v.replicas }}) and autoscaling.enabled exclude each other: leave replicas out, or the autoscaler off
{{- end }}
{{- if and $v.autoscaling.enabled (gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) }}
- autoscaling.minReplicas ({{ $v.autoscaling.minReplicas }}) is above autoscaling.maxReplicas ({{ $v.autoscaling.maxReplicas }})
{{- end }}
{{- if and $v.autoscaling.enabled (not (or $v.autoscaling.busyShare $v.autoscaling.queueShare $v.autoscaling.cpuUtilization)) }}
- autoscaling.enabled needs a measure: autoscaling.busyShare, queueShare or cpuUtilization
{{- end }}
{{- if and $v.autoscaling.enabled $v.gpu.enabled $v.autoscaling.cpuUtilization }}
- autoscaling.cpuUtilization says nothing of a GPU: leave it out, busyShare measures the device
{{- end }}
{{- $bundles := list -}}
{{- if $v.bundle.claim.name }}{{ $bundles = append $bundles "bundle.claim.name" }}{{ end -}}
{{- if $v.bundle.fetch.source }}{{ $bundles = append $bundles "bundle.fetch.source" }}{{ end -}}
{{- if $v.bundle.image.reference }}{{ $bundles = append $bundles "bundle.image.reference" }}{{ end -}}
{{- if gt (len $bundles) 1 }}
- {{ join " and " $bundles }} exclude each other: a pod serves one bundle
{{- end }}
{{- if and $v.search.claim.name $v.search.url }}
- search.claim.name and search.url exclude each other: a pod searches one index
{{- end }}
{{- if and $v.gpu.enabled (include "maeve.hasSearch" .) (not $v.image.tag) (not $v.image.digest) }}
- no image of deploy/Dockerfile has both a GPU's engine and the search: build one and give image.tag or image.digest
{{- end }}
{{- if and $v.redis.enabled (include "maeve.hasExternalRedis" .) }}
- externalRedis is given and redis.enabled is true: add redis.enabled=false
{{- end }}
{{- if and $v.externalRedis.url $v.externalRedis.existingSecret }}
- externalRedis.url and externalRedis.existingSecret exclude each other
{{- end }}
{{- if and $v.externalRedis.caSecret $v.externalRedis.url (not (contains "ssl_ca_certs=/etc/maeve/redis/ca.crt" $v.externalRedis.url)) }}
- externalRedis.caSecret is given, but externalRedis.url does not name it: add ?ssl_ca_certs=/etc/maeve/redis/ca.crt
{{- end }}
{{- if and $v.apiKeys.entries $v.apiKeys.existingSecret }}
- apiKeys.entries and apiKeys.existingSecret exclude each other
{{- end }}
{{- if and (or $v.settings.MAEVE_RATE_LIMIT $v.settings.MAEVE_METRICS_API_KEY) (not (include "maeve.hasKeys" .)) }}
- settings.MAEVE_RATE_LIMIT and settings.MAEVE_METRICS_API_KEY need keys: give apiKeys.entries or apiKeys.existingSecret
{{- end }}
{{- if and $v.settings.MAEVE_METRICS_API_KEY $v.monitoring.serviceMonitor.enabled (not $v.monitoring.serviceMonitor.keySecret) }}
- settings.MAEVE_METRICS_API_KEY closes /metrics to Prometheus: give monitoring.serviceMonitor.keySecret
{{- end }}
{{- $addresses := false -}}
{{- range $v.networkPolicy.from }}{{ if hasKey . "ipBlock" }}{{ $addresses = true }}{{ end }}{{ end -}}
{{- if and $v.networkPolicy.enabled (ne $v.service.type "ClusterIP") (not $addresses) }}
- service.type {{ $v.service.type }} is for clients outside the cluster, and the network policy lets none of them in: add their addresses to networkPolicy.from as an ipBlock, or networkPolicy.enabled=false
{{- end }}
{{- $cores := include "maeve.coresSetting" . -}}
{{- if and (include "maeve.coresAreOpen" .) (not (dig "requests" "cpu" "" $v.resources)) (not (hasKey $v.settings $cores)) }}
- resources has no CPU, so a pod would take its node's every core: give resources.requests.cpu, limits.cpu or settings.{{ $cores }}
{{- end }}
{{- end -}}
