{{/* The name of everything in this release. */}}
{{- define "deputy.fullname" -}}
{{- if contains "deputy" .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-deputy" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "deputy.selectorLabels" -}}
app.kubernetes.io/name: deputy
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "deputy.labels" -}}
{{ include "deputy.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "deputy.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "deputy.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "deputy.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* Whether the engine has a database of its own: "true" or empty. */}}
{{- define "deputy.hasDatabase" -}}
{{- if has .Values.engine.kind (list "postgres" "cockroachdb" "mysql" "spanner") -}}true{{- end -}}
{{- end -}}

{{/* The claim of the volume that the engine embedded keeps everything on. */}}
{{- define "deputy.claim" -}}
{{- default (printf "%s-data" (include "deputy.fullname" .)) .Values.persistence.existingClaim -}}
{{- end -}}

{{/* Whether there is a journal: "true" or empty. A graph in memory has none. */}}
{{- define "deputy.journal" -}}
{{- if and .Values.journal.enabled (ne .Values.engine.kind "memory") -}}true{{- end -}}
{{- end -}}

{{/* Whether the journal has a volume of its own, one for each replica: with embedded it is on the volume of the data. */}}
{{- define "deputy.journalVolume" -}}
{{- if and (include "deputy.journal" .) (ne .Values.engine.kind "embedded") -}}true{{- end -}}
{{- end -}}

{{/* The claim of the volume with the journal's keys. */}}
{{- define "deputy.keysClaim" -}}
{{- default (printf "%s-journal-keys" (include "deputy.fullname" .)) .Values.journal.keys.existingClaim -}}
{{- end -}}

{{/* Refuse what would not start, or would start and be open, before anything reaches the cluster. */}}
{{- define "deputy.validate" -}}
{{- if and (not .Values.tls.existingSecret) (not .Values.insecure) -}}
{{- fail "set tls.existingSecret: the server is reached over the network, and its keys with it. If the network itself encrypts, set insecure: true" -}}
{{- end -}}
{{- if not (or .Values.auth.serviceKeys .Values.auth.adminKeys .Values.auth.callers) -}}
{{- fail "auth.serviceKeys, auth.adminKeys and auth.callers are all false, so nobody could call the server: set one of them to true" -}}
{{- end -}}
{{- if and .Values.tls.existingSecret .Values.insecure -}}
{{- fail "tls.existingSecret and insecure exclude each other" -}}
{{- end -}}
{{- if and (or .Values.tls.clientAuthorities .Values.tls.spiffeTrustDomain (eq .Values.tls.clientAuth "require")) (not .Values.tls.existingSecret) -}}
{{- fail "tls.clientAuthorities, tls.clientAuth require and tls.spiffeTrustDomain need TLS: set tls.existingSecret" -}}
{{- end -}}
{{- if and (or .Values.tls.spiffeTrustDomain (eq .Values.tls.clientAuth "require")) (not .Values.tls.clientAuthorities) -}}
{{- fail "tls.spiffeTrustDomain and tls.clientAuth require need tls.clientAuthorities, the key of the Secret with the authorities of clients" -}}
{{- end -}}
{{- if and (has .Values.engine.kind (list "embedded" "memory")) (gt (int .Values.replicaCount) 1) -}}
{{- fail (printf "engine.kind %s keeps a graph for each replica: set replicaCount to 1, or choose an engine that replicas share" .Values.engine.kind) -}}
{{- end -}}
{{- if and (include "deputy.hasDatabase" .) (not .Values.engine.existingSecret) -}}
{{- fail (printf "engine.kind %s needs engine.existingSecret, a Secret that holds the connection string" .Values.engine.kind) -}}
{{- end -}}
{{- if and .Values.engine.follow (ne .Values.engine.kind "postgres") -}}
{{- fail (printf "engine.follow is for engine.kind postgres, not %s: leave it out" .Values.engine.kind) -}}
{{- end -}}
{{- if and (include "deputy.journalVolume" .) (not .Values.journal.keys.existingSecret) -}}
{{- fail (printf "engine.kind %s needs journal.keys.existingSecret, a Secret that holds the keys of the journals, which all replicas share: see README.md. To record nothing, set journal.enabled: false" .Values.engine.kind) -}}
{{- end -}}
{{- if and .Values.journal.keys.existingSecret .Values.journal.keys.existingClaim -}}
{{- fail "journal.keys.existingSecret and journal.keys.existingClaim exclude each other" -}}
{{- end -}}
{{- if eq .Values.engine.kind "remote" -}}
{{- if not .Values.engine.remote.endpoint -}}
{{- fail "engine.kind remote needs engine.remote.endpoint, the SpiceDB's host and port" -}}
{{- end -}}
{{- if not .Values.engine.existingSecret -}}
{{- fail "engine.kind remote needs engine.existingSecret, a Secret that holds the SpiceDB's preshared key" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What runs in the cluster sees no more than it needs. */}}
{{- define "deputy.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "deputy.containerSecurityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
runAsNonRoot: true
{{- end -}}

{{/* The engine's secrets come as variables: a connection string has no file setting. */}}
{{- define "deputy.env" -}}
{{- if include "deputy.hasDatabase" . }}
- name: DEPUTY_DATASTORE_CONN_URI
  valueFrom:
    secretKeyRef:
      name: {{ .Values.engine.existingSecret }}
      key: {{ .Values.engine.secretKey }}
{{- else if eq .Values.engine.kind "remote" }}
- name: DEPUTY_REMOTE_PRESHARED_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .Values.engine.existingSecret }}
      key: {{ .Values.engine.remote.secretKey }}
{{- end }}
{{- end -}}
