{{- define "modelfleet.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- /* Short enough that "-gateway-metrics" and a pod's suffix still fit into 63 characters. */ -}}
{{- define "modelfleet.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "modelfleet.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "modelfleet.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* Cluster-wide objects carry the namespace: two installations never meet. */ -}}
{{- define "modelfleet.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "modelfleet.fullname" .) -}}
{{- end -}}

{{- /* Of everything; a component's selector is this with its own name. */ -}}
{{- define "modelfleet.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: modelfleet
app.kubernetes.io/name: {{ include "modelfleet.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "modelfleet.selector" -}}
app.kubernetes.io/name: {{ include "modelfleet.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "modelfleet.image" -}}
{{- $image := index .root.Values.images .name -}}
{{- $repository := $image.repository -}}
{{- with .root.Values.images.registry -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) $repository -}}
{{- end -}}
{{- /* Else nodes would look for it at docker.io, where it is not, and `helm --wait` would wait. */ -}}
{{- if not (regexMatch "^([^/]*[.:][^/]*|localhost)/" $repository) -}}
{{- fail "images.registry: Modelfleet's images are published nowhere: build and push them (docs/images.md), and name your registry. For images that were loaded onto the nodes: images.registry=docker.io" -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "modelfleet.serviceAccount" -}}
{{- if .Values.operator.serviceAccount.create -}}
{{- default (printf "%s-operator" (include "modelfleet.fullname" .)) .Values.operator.serviceAccount.name -}}
{{- else -}}
{{- required "operator.serviceAccount.name: name the ServiceAccount that serviceAccount.create=false leaves to you" .Values.operator.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* Where gateways and workers get certificates, of any operator. */ -}}
{{- define "modelfleet.issuer" -}}
{{- printf "%s-operator.%s.svc:9093" (include "modelfleet.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- /* Where clients reach the gateways; a ModelDeployment's status shows it. */ -}}
{{- define "modelfleet.gatewayURL" -}}
{{- $ingress := .Values.gateway.ingress -}}
{{- $port := int .Values.gateway.service.port -}}
{{- if and $ingress.enabled $ingress.host -}}
{{- printf "%s://%s" (ternary "http" "https" (empty $ingress.tlsSecret)) $ingress.host -}}
{{- else -}}
{{- $scheme := ternary "http" "https" (empty .Values.gateway.tls.secret) -}}
{{- $usual := ternary 80 443 (empty .Values.gateway.tls.secret) -}}
{{- printf "%s://%s-gateway.%s.svc%s" $scheme (include "modelfleet.fullname" .) .Release.Namespace (ternary "" (printf ":%d" $port) (eq $port $usual)) -}}
{{- end -}}
{{- end -}}

{{- /* Those that serve clients, and those that run batches: both are gateways to operators and workers. */ -}}
{{- define "modelfleet.gatewayPods" -}}
matchLabels:
  app.kubernetes.io/name: {{ include "modelfleet.name" . }}
  app.kubernetes.io/instance: {{ .Release.Name }}
matchExpressions:
  - key: app.kubernetes.io/component
    operator: In
    values: [gateway, batches]
{{- end -}}

{{- /* Who reaches workers: gateways, and operators, which tell a claimed standby its model. */ -}}
{{- define "modelfleet.workerClients" -}}
{{- $namespace := dict "matchLabels" (dict "kubernetes.io/metadata.name" .Release.Namespace) -}}
{{- $gateways := include "modelfleet.gatewayPods" . | fromYaml -}}
{{- $operators := include "modelfleet.selector" (dict "root" . "component" "operator") | fromYaml -}}
{{- toJson (list
  (dict "namespaceSelector" $namespace "podSelector" $gateways)
  (dict "namespaceSelector" $namespace "podSelector" (dict "matchLabels" $operators))) -}}
{{- end -}}

{{- /* Pod Security Standards, level restricted. Users are numbers in the images. */ -}}
{{- define "modelfleet.podSecurity" -}}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "modelfleet.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "modelfleet.topologySpread" -}}
{{- $root := . -}}
{{- range .spread.topologyKeys }}
- topologyKey: {{ . }}
  maxSkew: 1
  whenUnsatisfiable: {{ $root.spread.whenUnsatisfiable }}
  labelSelector:
    matchLabels:
      {{- include "modelfleet.selector" $root | nindent 6 }}
  matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end -}}

{{- /* Where the administrator wants the pods of a part. */ -}}
{{- define "modelfleet.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "modelfleet.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- /* As variables, so that an image of another version may pass them over. The operator has no spans
of its own: it gives them to workers. */ -}}
{{- define "modelfleet.tracing" -}}
{{- with .Values.tracing }}
{{- if .endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .endpoint | quote }}
- name: OTEL_TRACES_SAMPLER
  value: parentbased_traceidratio
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .sampleRatio | quote }}
{{- end }}
{{- end }}
{{- end -}}
