{{/* Names begin with the release's, so that two releases share a namespace. 45 characters leave room for suffixes. */}}
{{- define "interlink.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "interlink.services" -}}
[gateway, delivery, sync, oauth, importer, console]
{{- end -}}

{{/* The path prefixes that each service serves, as in shared/contracts/routes.py. An Ingress has no patterns such as
/api/integrations/{id}/import: everything below /api/integrations goes to the gateway, which passes it on. */}}
{{- define "interlink.routes" -}}
delivery:
  - /api/outgoing-webhooks
  - /api/deliveries
  - /api/delivery-jobs
  - /api/queue
  - /api/dead-letters
  - /api/events/unmatched
  - /api/retention/delivery
sync:
  - /api/messages
  - /api/mappings
  - /api/sync
  - /api/people-links
  - /api/synced-messages
  - /api/conflicts
  - /api/files
  - /api/retention/sync
importer:
  - /api/imports
  - /api/uploads
  - /api/files/imported
  - /api/retention/importer
console:
  - /console
  - /api/portal-sessions
  - /api/connect-sessions
oauth:
  - /api/auth/oauth
  - /api/platform-credentials
  - /api/polling-triggers
gateway:
  - /api
  - /integrations
{{- end -}}

{{/* The other services that a service calls. */}}
{{- define "interlink.peers" -}}
gateway: [delivery, sync, oauth, importer, console]
console: [gateway, delivery, sync, oauth, importer]
oauth: [gateway]
{{- end -}}

{{- define "interlink.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "interlink.labels" -}}
{{ include "interlink.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{- define "interlink.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "interlink.secretName" -}}
{{- default (include "interlink.fullname" .) .Values.secrets.name -}}
{{- end -}}

{{/* A setting's value as the environment has it: numbers without exponents, documents as JSON. */}}
{{- define "interlink.value" -}}
{{- if kindIs "string" . -}}{{ . | quote }}{{- else -}}{{ toJson . | quote }}{{- end -}}
{{- end -}}

{{/* The key of a service's Kafka password. Takes root and kafka (of the service). */}}
{{- define "interlink.kafkaPasswordKey" -}}
{{- default .root.Values.secrets.keys.kafkaPassword .kafka.passwordKey -}}
{{- end -}}

{{/* Environment of a container. Takes root, name, kafka and settings (maps, the later ones count). */}}
{{- define "interlink.env" -}}
{{- $values := .root.Values -}}
{{- $full := include "interlink.fullname" .root -}}
- { name: INTERLINK_HOST, value: "0.0.0.0" }
- { name: INTERLINK_PORT, value: "8080" }
- { name: INTERLINK_PUBLIC_URL, value: {{ $values.publicUrl | quote }} }
- { name: INTERLINK_DRAIN_SECONDS, value: {{ toJson $values.drainSeconds | quote }} }
- { name: INTERLINK_ENCRYPTION_KEY_FILE, value: "/run/secrets/interlink/encryption_key" }
{{- with $values.trustedProxies }}
- { name: INTERLINK_TRUSTED_PROXIES, value: {{ join "," . | quote }} }
{{- end }}
- { name: KAFKA_BOOTSTRAP_SERVERS, value: {{ $values.kafka.bootstrapServers | quote }} }
- { name: KAFKA_SECURITY_PROTOCOL, value: {{ $values.kafka.securityProtocol | quote }} }
{{- if hasPrefix "SASL_" $values.kafka.securityProtocol }}
- { name: KAFKA_SASL_MECHANISM, value: {{ $values.kafka.saslMechanism | quote }} }
- { name: KAFKA_SASL_USERNAME, value: {{ default $values.kafka.username .kafka.username | quote }} }
- { name: KAFKA_SASL_PASSWORD_FILE, value: "/run/secrets/interlink/kafka_password" }
{{- end }}
{{- if $values.kafka.ca.secret }}
- { name: KAFKA_SSL_CAFILE, value: "/run/secrets/kafka-ca/ca.crt" }
{{- end }}
{{- if $values.kafka.clientCertificate.secret }}
- { name: KAFKA_SSL_CERTFILE, value: "/run/secrets/kafka-client/tls.crt" }
- { name: KAFKA_SSL_KEYFILE, value: "/run/secrets/kafka-client/tls.key" }
{{- end }}
{{- with $values.kafka.rackLabel }}
- { name: KAFKA_CLIENT_RACK, valueFrom: { fieldRef: { fieldPath: {{ printf "metadata.labels['%s']" . | quote }} } } }
{{- end }}
{{- $uri := $values.mongodb.uri -}}
{{- if $values.mongodb.ca.secret -}}
{{- $uri = printf "%s%stls=true&tlsCAFile=/run/secrets/mongodb-ca/ca.crt" $uri (contains "?" $uri | ternary "&" "?") -}}
{{- end }}
- { name: MONGODB_URI, value: {{ $uri | quote }} }
{{- if $values.secrets.keys.mongodbPassword }}
- { name: MONGODB_PASSWORD_FILE, value: "/run/secrets/interlink/mongodb_password" }
{{- end }}
{{- if eq .name "init" }}
- { name: KAFKA_REPLICATION_FACTOR, value: {{ toJson $values.kafka.replicationFactor | quote }} }
{{- if $values.secrets.keys.bootstrapAdminKey }}
- { name: INTERLINK_BOOTSTRAP_ADMIN_KEY_FILE, value: "/run/secrets/interlink/bootstrap_admin_key" }
{{- end }}
{{- else }}
- { name: INTERLINK_EGRESS_PORTS, value: {{ empty $values.egressPorts | ternary "any" (join "," $values.egressPorts) | quote }} }
{{- end }}
{{- with index (fromYaml (include "interlink.peers" .root)) .name }}
{{- if ne $.name "oauth" }}
{{- $urls := dict }}
{{- range . }}{{- if ne . "gateway" }}{{- $_ := set $urls . (printf "http://%s-%s:8080" $full .) }}{{- end }}{{- end }}
- { name: INTERLINK_PEERS, value: {{ toJson $urls | quote }} }
{{- end }}
{{- if has "gateway" . }}
- { name: INTERLINK_GATEWAY_URL, value: {{ printf "http://%s-gateway:8080" $full | quote }} }
{{- end }}
{{- end }}
{{- if and $values.apps (has .name (list "gateway" "sync" "oauth" "importer")) }}
- { name: INTERLINK_APPS_DIR, value: "/run/secrets/apps" }
{{- end }}
{{- if and (eq .name "console") $values.secrets.keys.oidcClientSecret }}
- { name: INTERLINK_OIDC_CLIENT_SECRET_FILE, value: "/run/secrets/interlink/oidc_client_secret" }
{{- end }}
{{- if eq .name "sync" }}
- { name: INTERLINK_FILE_FOLDER, value: "/var/lib/interlink/files" }
- { name: INTERLINK_FILE_DISK_BYTES, value: {{ div (int64 $values.services.sync.fileBytes) (int64 $values.services.sync.workers) | quote }} }
{{- if $values.secrets.keys.chatFilesToken }}
- { name: INTERLINK_CHAT_FILES_TOKEN_FILE, value: "/run/secrets/interlink/chat_files_token" }
{{- end }}
{{- end }}
{{- if eq .name "importer" }}
- { name: INTERLINK_UPLOAD_FOLDER, value: "/var/lib/interlink/uploads" }
{{- end }}
{{- range $key, $value := .settings }}
- { name: {{ $key }}, value: {{ include "interlink.value" $value }} }
{{- end }}
{{- end -}}

{{/* Volumes with the secrets of a container, each under the name that the environment expects. Takes root, name and kafka. */}}
{{- define "interlink.secretVolumes" -}}
{{- $keys := .root.Values.secrets.keys -}}
- name: secrets
  secret:
    secretName: {{ include "interlink.secretName" .root | quote }}
    defaultMode: 0440
    items:
      - { key: {{ $keys.encryptionKey | quote }}, path: encryption_key }
{{- if hasPrefix "SASL_" .root.Values.kafka.securityProtocol }}
      - { key: {{ include "interlink.kafkaPasswordKey" . | quote }}, path: kafka_password }
{{- end }}
{{- with $keys.mongodbPassword }}
      - { key: {{ . | quote }}, path: mongodb_password }
{{- end }}
{{- if and (eq .name "init") $keys.bootstrapAdminKey }}
      - { key: {{ $keys.bootstrapAdminKey | quote }}, path: bootstrap_admin_key }
{{- end }}
{{- if and (eq .name "console") $keys.oidcClientSecret }}
      - { key: {{ $keys.oidcClientSecret | quote }}, path: oidc_client_secret }
{{- end }}
{{- if and (eq .name "sync") $keys.chatFilesToken }}
      - { key: {{ $keys.chatFilesToken | quote }}, path: chat_files_token }
{{- end }}
{{- with .root.Values.kafka.ca }}
{{- if .secret }}
- name: kafka-ca
  secret: { secretName: {{ .secret | quote }}, defaultMode: 0440, items: [{ key: {{ .key | quote }}, path: ca.crt }] }
{{- end }}
{{- end }}
{{- with .root.Values.kafka.clientCertificate }}
{{- if .secret }}
- name: kafka-client
  secret:
    secretName: {{ .secret | quote }}
    defaultMode: 0440
    items: [{ key: {{ .certificateKey | quote }}, path: tls.crt }, { key: {{ .privateKeyKey | quote }}, path: tls.key }]
{{- end }}
{{- end }}
{{- with .root.Values.mongodb.ca }}
{{- if .secret }}
- name: mongodb-ca
  secret: { secretName: {{ .secret | quote }}, defaultMode: 0440, items: [{ key: {{ .key | quote }}, path: ca.crt }] }
{{- end }}
{{- end }}
{{- end -}}

{{- define "interlink.secretMounts" -}}
- { name: secrets, mountPath: /run/secrets/interlink, readOnly: true }
{{- if .Values.kafka.ca.secret }}
- { name: kafka-ca, mountPath: /run/secrets/kafka-ca, readOnly: true }
{{- end }}
{{- if .Values.kafka.clientCertificate.secret }}
- { name: kafka-client, mountPath: /run/secrets/kafka-client, readOnly: true }
{{- end }}
{{- if .Values.mongodb.ca.secret }}
- { name: mongodb-ca, mountPath: /run/secrets/mongodb-ca, readOnly: true }
{{- end }}
- { name: tmp, mountPath: /tmp }
{{- end -}}

{{/* What holds for every pod of the release, below its spec. */}}
{{- define "interlink.podSpec" -}}
serviceAccountName: {{ include "interlink.fullname" . }}
automountServiceAccountToken: false
# Variables such as INTERLINK_PORT, which Kubernetes would add for a service called "interlink", are settings of the hub.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - { name: {{ . | quote }} }
  {{- end }}
{{- end }}
{{- with .Values.pod.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.pod.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.pod.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.pod.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "interlink.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities: { drop: [ALL] }
{{- end -}}
