{{- define "loadline.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "loadline.account" -}}
{{- default (include "loadline.name" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "loadline.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{- define "loadline.selector" -}}
app.kubernetes.io/name: loadline
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: serve
{{- end -}}

{{- define "loadline.labels" -}}
{{ include "loadline.selector" . }}
{{ include "loadline.origin" . }}
{{- end -}}

{{- define "loadline.origin" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* Labels of one gateway; takes a dict of root and gateway. */ -}}
{{- define "loadline.gateway.selector" -}}
app.kubernetes.io/name: loadline
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: gateway
loadline.dev/gateway: {{ .gateway.name }}
{{- end -}}

{{- define "loadline.gateway.name" -}}
{{- printf "%s-gateway-%s" (include "loadline.name" .root) .gateway.name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* serve.yaml: what is configured, with the names that this release decides. */ -}}
{{- define "loadline.config" -}}
{{- $ours := dict "metricsApi" (dict "service" (include "loadline.name" .) "custom" .Values.apiServices.custom "external" .Values.apiServices.external) "lease" (dict "name" (include "loadline.lease" .)) -}}
{{- mergeOverwrite $ours (deepCopy .Values.config) | toYaml -}}
{{- end -}}

{{- define "loadline.lease" -}}
{{- dig "lease" "name" "loadline" .Values.config -}}
{{- end -}}

{{- define "loadline.port" -}}
{{- /* The port of `host:port`; takes a list of the address and the default. */ -}}
{{- (default (index . 1) (index . 0)) | splitList ":" | last -}}
{{- end -}}

{{- define "loadline.pod.security" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "loadline.container.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "loadline.environment" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- end -}}
