{{/* Labels of an object. Argument: {root, name}. */}}
{{- define "confcast.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/part-of: confcast
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/* Labels of a pod: none that an upgrade of the chart changes. Argument: {part, name}. */}}
{{- define "confcast.podLabels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/part-of: confcast
{{- with .part.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Image by digest, else by tag. Argument: {root, part}. */}}
{{- define "confcast.image" -}}
{{- $registry := .root.Values.image.registry | trimSuffix "/" -}}
{{- with $registry }}{{ . }}/{{ end }}{{ .part.image.repository }}
{{- if .part.image.digest }}@{{ .part.image.digest }}{{ else }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* A value of a setting as text. YAML reads a number as floating point. */}}
{{- define "confcast.text" -}}
{{- if kindIs "float64" . }}{{ int64 . | toString | quote }}{{ else }}{{ toString . | quote }}{{ end }}
{{- end }}

{{/* Refuses settings that the chart sets itself, and those that may hold a secret. Argument: {where, settings}. */}}
{{- define "confcast.refuse" -}}
{{- $own := dict
  "AURA_CONFIGURATION_LISTEN" "it is 0.0.0.0:8080"
  "AURA_CONFIGURATION_DRAIN_SECONDS" "set drainSeconds"
  "AURA_CONFIGURATION_BASE_URL" "it follows from the pod"
  "AURA_CONFIGURATION_STORE_URL" "set publisher.store and existing.store"
  "AURA_CONFIGURATION_SNAPSHOT_DIR" "set subscriber.lastKnownGood"
  "AURA_CONFIGURATION_EVENTS_MANAGER" "set events.transport"
  "AURA_CONFIGURATION_TOKENS_FILE" "set existing.tokens"
  "AURA_CONFIGURATION_TOKEN_FILE" "set existing.subscriberToken"
  "AURA_CONFIGURATION_TLS_CERT_FILE" "set tls.enabled"
  "AURA_CONFIGURATION_TLS_KEY_FILE" "set tls.enabled"
  "AURA_CONFIGURATION_SIGNING_KEY_FILE" "set signatures.enabled"
  "AURA_CONFIGURATION_EVENT_KEYS_FILE" "set signatures.enabled"
  "AURA_DAPR_CONFIGURATION_PUBSUB_NAME" "it is pubsub-config"
  "AURA_DAPR_DEAD_LETTERS_PUBSUB_NAME" "it is pubsub-config-dead-letters"
  "AURA_DAPR_DECLARATIVE_SUBSCRIPTIONS" "set dapr.subscriptions"
  "AURA_CONFIGURATION_DAPR_API_LISTEN" "set subscriber.daprApi"
  "DAPR_GRPC_PORT" "Dapr sets it"
  "DAPR_HTTP_PORT" "Dapr sets it"
  "DAPR_API_TOKEN" "set existing.daprApiToken"
  "APP_API_TOKEN" "set existing.daprAppToken" }}
{{- $secret := list "AURA_CONFIGURATION_TOKEN" "AURA_CONFIGURATION_SECRET_KEYS" "AURA_REDIS_URL" "AURA_CONFIGURATION_PROJECTION_URL" }}
{{- range $name, $value := .settings }}
{{- if hasKey $own $name }}
{{- fail (printf "%s.%s is set by the chart: %s" $.where $name (get $own $name)) }}
{{- end }}
{{- if and (has $name $secret) (not $.secret) }}
{{- fail (printf "%s.%s may hold a secret, which would be readable in the manifest: name a Secret in publisher.secretSettings or subscriber.secretSettings" $.where $name) }}
{{- end }}
{{- end }}
{{- if and (hasKey .settings "AURA_CONFIGURATION_COLLECTIONS") (not (hasPrefix "subscriber." .where)) }}
{{- fail (printf "%s.AURA_CONFIGURATION_COLLECTIONS is set by the chart: set collections, and subscriber.settings where subscribers follow fewer" .where) }}
{{- end }}
{{- end }}

{{/* The settings of both programs. */}}
{{- define "confcast.settings" -}}
{{- include "confcast.refuse" (dict "where" "settings" "settings" .Values.settings) }}
{{- $settings := dict
  "AURA_CONFIGURATION_LISTEN" "0.0.0.0:8080"
  "AURA_CONFIGURATION_DRAIN_SECONDS" .Values.drainSeconds
  "AURA_CONFIGURATION_ALLOWED_HOSTS" "confcast-publisher,confcast-subscriber,*.svc,*.svc.cluster.local"
  "AURA_CONFIGURATION_TOKENS_FILE" "/etc/confcast/tokens/tokens"
  "AURA_CONFIGURATION_API_URL" (ternary "https://confcast-publisher:8080" "http://confcast-publisher:8080" .Values.tls.enabled)
  "AURA_CONFIGURATION_ALLOW_PLAINTEXT_TOKEN" (not .Values.tls.enabled)
  "RUST_LOG" "info" }}
{{- if ne .Values.events.transport "FEED" }}
{{- $_ := set $settings "AURA_CONFIGURATION_EVENTS_MANAGER" .Values.events.transport }}
{{- end }}
{{- if .Values.tls.enabled }}
{{- $_ := set $settings "AURA_CONFIGURATION_TLS_CERT_FILE" "/etc/confcast/tls/tls.crt" }}
{{- $_ := set $settings "AURA_CONFIGURATION_TLS_KEY_FILE" "/etc/confcast/tls/tls.key" }}
{{- $_ := set $settings "AURA_CONFIGURATION_CA_FILE" "/etc/confcast/tls/ca.crt" }}
{{- end }}
{{- /* Not `merge`, which takes false for a value that is missing. */}}
{{- range $name, $value := .Values.settings }}
{{- $_ := set $settings $name $value }}
{{- end }}
{{- range $name, $value := $settings }}
{{ $name }}: {{ include "confcast.text" $value }}
{{- end }}
{{- end }}

{{/* A variable from a key of a Secret. Argument: {variable, name, key}. */}}
{{- define "confcast.secretVariable" -}}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
{{- end }}

{{/* What both pods have: annotations of the pod. Argument: {root, part, appId}. */}}
{{- define "confcast.annotations" -}}
checksum/settings: {{ include "confcast.settings" .root | sha256sum }}
{{- if eq .root.Values.events.transport "DAPR" }}
dapr.io/enabled: "true"
dapr.io/app-id: {{ .appId }}
dapr.io/app-port: "8080"
{{- if .root.Values.tls.enabled }}
# The sidecar calls the application by TLS. It does not verify the certificate: it is in the same pod.
dapr.io/app-protocol: https
{{- end }}
dapr.io/config: confcast
# A dead app gets no events: they wait in the stream until it runs again, and do not become dead letters.
dapr.io/enable-app-health-check: "true"
dapr.io/app-health-check-path: /healthz
dapr.io/app-health-probe-interval: "1"
dapr.io/app-health-probe-timeout: "500"
dapr.io/app-health-threshold: "3"
# Both containers get SIGTERM at once. This keeps the sidecar until the program has ended (a publisher sends its pending
# changes): until its health check fails, at most this long. It takes no events from SIGTERM on: changes come to a
# subscriber with the check-ins.
dapr.io/block-shutdown-duration: {{ add .root.Values.drainSeconds 17 }}s
# The operator resolves the component's secrets; the sidecar needs no access to the namespace's others.
dapr.io/disable-builtin-k8s-secret-store: "true"
dapr.io/sidecar-cpu-request: 100m
dapr.io/sidecar-memory-request: 64Mi
dapr.io/sidecar-memory-limit: 256Mi
# Tokens between app and sidecar, both ways: each names a Secret with the key `token`.
dapr.io/api-token-secret: {{ .root.Values.existing.daprApiToken }}
dapr.io/app-token-secret: {{ .root.Values.existing.daprAppToken }}
{{- end }}
{{- with .part.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The part of a pod's spec before its containers. Argument: {root, part, name}. */}}
{{- define "confcast.pod" -}}
serviceAccountName: {{ .name }}
automountServiceAccountToken: false
{{- $needed := add .root.Values.drainSeconds 22 }}
{{- if lt (int .root.Values.terminationGracePeriodSeconds) (int $needed) }}
{{- fail (printf "terminationGracePeriodSeconds is less than drainSeconds + 22: set it to %d" (int $needed)) }}
{{- end }}
terminationGracePeriodSeconds: {{ .root.Values.terminationGracePeriodSeconds }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- if .root.Values.topologySpread.enabled }}
topologySpreadConstraints:
  - maxSkew: {{ .root.Values.topologySpread.maxSkew }}
    topologyKey: {{ .root.Values.topologySpread.topologyKey }}
    whenUnsatisfiable: {{ .root.Values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        app.kubernetes.io/name: {{ .name }}
{{- end }}
{{- with .part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- range $member := list "nodeSelector" "tolerations" "affinity" }}
{{- with get $.part $member }}
{{ $member }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* The environment that both containers have besides their own. Argument: {root, part, where}. */}}
{{- define "confcast.environment" -}}
{{- include "confcast.refuse" (dict "where" (printf "%s.settings" .where) "settings" .part.settings) }}
{{- include "confcast.refuse" (dict "where" (printf "%s.secretSettings" .where) "settings" .part.secretSettings "secret" true) }}
{{- range $name, $from := .part.secretSettings }}
{{- if hasKey $.part.settings $name }}
{{- fail (printf "%s.settings and %s.secretSettings both have %s" $.where $.where $name) }}
{{- end }}
{{- end }}
{{- if eq .root.Values.events.transport "DAPR" }}
# The sidecar gets both tokens from its annotations; the application needs them as well.
{{ include "confcast.secretVariable" (dict "variable" "DAPR_API_TOKEN" "name" .root.Values.existing.daprApiToken "key" "token") }}
{{ include "confcast.secretVariable" (dict "variable" "APP_API_TOKEN" "name" .root.Values.existing.daprAppToken "key" "token") }}
{{- end }}
{{- if and (eq .root.Values.events.transport "REDIS") (not (hasKey .part.secretSettings "AURA_REDIS_URL")) }}
{{ include "confcast.secretVariable" (dict "variable" "AURA_REDIS_URL" "name" .root.Values.existing.redis.name "key" .root.Values.existing.redis.urlKey) }}
{{- end }}
{{- range $name, $value := .part.settings }}
- name: {{ $name }}
  value: {{ include "confcast.text" $value }}
{{- end }}
{{- range $name, $from := .part.secretSettings }}
{{ include "confcast.secretVariable" (dict "variable" $name "name" $from.name "key" $from.key) }}
{{- end }}
{{- end }}

{{/* Probes, and the rights of the container. Argument: {root, part}. */}}
{{- define "confcast.container" -}}
{{- $scheme := ternary ", scheme: HTTPS" "" .root.Values.tls.enabled -}}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
ports:
  - name: http
    containerPort: 8080
envFrom:
  - configMapRef:
      name: confcast-settings
startupProbe:
  httpGet: {path: /healthz, port: http{{ $scheme }}}
  periodSeconds: 1
  failureThreshold: 60
# The process alone: an unavailable database or publisher must not restart a pod that waits for it.
livenessProbe:
  httpGet: {path: /healthz, port: http{{ $scheme }}}
  periodSeconds: 10
  timeoutSeconds: 2
readinessProbe:
  httpGet: {path: /readyz, port: http{{ $scheme }}}
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: 2
resources: {{- toYaml .part.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* A folder from a Secret. Argument: {volume, secret, private, optional}. */}}
{{- define "confcast.secretVolume" -}}
- name: {{ .volume }}
  secret:
    secretName: {{ .secret }}
    {{- if .private }}
    # 0440. Not readable for every user: a private key that is, is refused.
    defaultMode: 288
    {{- end }}
    {{- if .optional }}
    optional: true
    {{- end }}
{{- end }}

{{/* A claim of a StatefulSet. Argument: {volume, claim}. */}}
{{- define "confcast.claim" -}}
- metadata:
    name: {{ .volume }}
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .claim.storageClassName }}
    storageClassName: {{ . }}
    {{- end }}
    resources:
      requests:
        storage: {{ .claim.size }}
{{- end }}

{{/* Not empty when pods reach Redis: directly, or through the Components of this chart. */}}
{{- define "confcast.usesRedis" -}}
{{- $dapr := and (eq .Values.events.transport "DAPR") (eq .Values.dapr.broker "redis") }}
{{- if or $dapr (eq .Values.events.transport "REDIS") }}yes{{ end }}
{{- end }}
