{{/* The chart's name in labels. */}}
{{- define "textgen.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of every object: the release's name, with the chart's unless it already holds it. */}}
{{- define "textgen.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "textgen.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "textgen.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects the operator's pod: never a label that changes with an upgrade. */}}
{{- define "textgen.selectorLabels" -}}
app.kubernetes.io/name: {{ include "textgen.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "textgen.labels" -}}
{{ include "textgen.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "textgen.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "textgen.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{/* The reference of an image. Takes a list: the root context and the image's values. A chart above this one may set the
registry for all of its charts. */}}
{{- define "textgen.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $registry := $image.registry | default ($root.Values.global | default dict).imageRegistry | default $root.Values.imageRegistry -}}
{{- $repository := printf "%s/%s" $registry $image.repository -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository ($image.tag | default $root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* The Service of the operator's metrics and health. */}}
{{- define "textgen.metricsName" -}}
{{- include "textgen.fullname" . | trunc 55 | trimSuffix "-" -}}-metrics
{{- end -}}

{{/* Whether Prometheus reads the operator's metrics by a ServiceMonitor; empty for no. */}}
{{- define "textgen.monitored" -}}
{{- $known := .Capabilities.APIVersions.Has "monitoring.coreos.com/v1/ServiceMonitor" -}}
{{- if or (eq .Values.metrics.monitor "Enabled") (and (eq .Values.metrics.monitor "Auto") $known) -}}yes{{- end -}}
{{- end -}}

{{/* Of the chart's own pods: what the restricted profile asks for. */}}
{{- define "textgen.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "textgen.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
