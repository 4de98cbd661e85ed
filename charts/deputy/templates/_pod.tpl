{{/* The pod that runs the server: of a Deployment, or of a StatefulSet. */}}
{{- define "deputy.pod" -}}
metadata:
  labels:
    {{- include "deputy.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # Settings are read at the start: new ones need new pods.
    checksum/config: {{ include (print $.Template.BasePath "/configmap.yaml") . | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "deputy.serviceAccountName" . }}
  # The server never talks to the cluster.
  automountServiceAccountToken: false
  # Settings can be variables named DEPUTY_…, and so are those that Kubernetes makes of a Service's name.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext: {{- include "deputy.podSecurityContext" . | nindent 4 }}
  containers:
    - name: deputy
      image: {{ include "deputy.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve, --config=/etc/deputy/config/deputy.yaml]
      {{- with include "deputy.env" . | trim }}
      env: {{- . | nindent 8 }}
      {{- end }}
      ports:
        - name: grpc
          containerPort: 50051
        {{- if .Values.metrics.enabled }}
        - name: metrics
          containerPort: {{ .Values.metrics.port }}
        {{- end }}
        {{- if .Values.http.enabled }}
        - name: http
          containerPort: {{ .Values.http.port }}
        {{- end }}
      securityContext: {{- include "deputy.containerSecurityContext" . | nindent 8 }}
      resources: {{- toYaml .Values.resources | nindent 8 }}
      {{- if .Values.tls.existingSecret }}
      # Kubernetes cannot probe gRPC over TLS, so with TLS only the port is tried.
      startupProbe:
        tcpSocket: {port: grpc}
        failureThreshold: 60
        periodSeconds: 2
      livenessProbe:
        tcpSocket: {port: grpc}
      readinessProbe:
        tcpSocket: {port: grpc}
      {{- else }}
      startupProbe:
        {{- if .Values.engine.follow }}
        # The server is ready once its copy is loaded, which may take long.
        tcpSocket: {port: grpc}
        {{- else }}
        grpc: {port: 50051}
        {{- end }}
        failureThreshold: 60
        periodSeconds: 2
      livenessProbe:
        # Alive is that it listens. An engine that is down makes it unready, and restarting would not help.
        tcpSocket: {port: grpc}
      readinessProbe:
        grpc: {port: 50051}
      {{- end }}
      volumeMounts:
        - name: config
          mountPath: /etc/deputy/config
          readOnly: true
        - name: keys
          mountPath: /etc/deputy/keys
          readOnly: true
        {{- if eq .Values.engine.kind "embedded" }}
        - name: data
          mountPath: /var/lib/deputy
        {{- end }}
        {{- if .Values.engine.follow }}
        - name: copy
          mountPath: /var/lib/deputy-copy
        {{- end }}
        {{- if include "deputy.journalVolume" . }}
        - name: journal
          mountPath: /var/lib/deputy-journal
        {{- end }}
        {{- if include "deputy.journal" . }}
        - name: journal-keys
          {{- if .Values.journal.keys.existingSecret }}
          mountPath: /etc/deputy/journal-keys
          readOnly: true
          {{- else }}
          mountPath: /var/lib/deputy-keys
          {{- end }}
        {{- end }}
        {{- if .Values.tls.existingSecret }}
        - name: tls
          mountPath: /etc/deputy/tls
          readOnly: true
        {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "deputy.fullname" . }}
    - name: keys
      secret:
        secretName: {{ .Values.auth.existingSecret }}
        defaultMode: 0440
        # Named one by one: a pod does not start while one is missing.
        items:
          {{- if .Values.auth.serviceKeys }}
          - {key: preshared-keys, path: preshared-keys}
          {{- end }}
          - {key: token-key, path: token-key}
          {{- if .Values.auth.adminKeys }}
          - {key: admin-preshared-keys, path: admin-preshared-keys}
          {{- end }}
          {{- if .Values.auth.callers }}
          - {key: callers.yaml, path: callers.yaml}
          {{- end }}
    {{- if eq .Values.engine.kind "embedded" }}
    - name: data
      persistentVolumeClaim:
        claimName: {{ include "deputy.claim" . }}
    {{- end }}
    {{- if .Values.engine.follow }}
    # It may go at any time: the copy is loaded again.
    - name: copy
      emptyDir: {}
    {{- end }}
    {{- if include "deputy.journal" . }}
    - name: journal-keys
      {{- if .Values.journal.keys.existingSecret }}
      secret:
        secretName: {{ .Values.journal.keys.existingSecret }}
        defaultMode: 0440
        items:
          - {key: secret.key, path: secret.key}
          - {key: signing.key, path: signing.key}
      {{- else }}
      persistentVolumeClaim:
        claimName: {{ include "deputy.keysClaim" . }}
      {{- end }}
    {{- end }}
    {{- if .Values.tls.existingSecret }}
    - name: tls
      secret:
        secretName: {{ .Values.tls.existingSecret }}
        defaultMode: 0440
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
