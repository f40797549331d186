{{- define "streamcrypt.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "streamcrypt.fullname" -}}
{{- $name := include "streamcrypt.name" . -}}
{{- $made := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- /* 52: a StatefulSet's pods carry a hash of its name in a label of 63 characters. */ -}}
{{- .Values.fullnameOverride | default $made | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "streamcrypt.selector" -}}
app.kubernetes.io/name: {{ include "streamcrypt.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "streamcrypt.labels" -}}
{{ include "streamcrypt.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "streamcrypt.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "streamcrypt.fullname" .) "default") -}}
{{- end -}}

{{- define "streamcrypt.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- with .Values.image.digest -}}
{{ $.Values.image.repository }}@{{ . }}
{{- else -}}
{{ .Values.image.repository }}:{{ $tag }}
{{- end -}}
{{- end -}}

{{- /* The configuration as text. */ -}}
{{- define "streamcrypt.configText" -}}
{{- $config := required "config: give streamcrypt's configuration, as a map or with --set-file config=FILE" .Values.config -}}
{{- kindIs "string" $config | ternary $config (toYaml $config) | trim -}}
{{- end -}}

{{- /* The same as a map, for what other objects need of it; as JSON, because a template gives text only. */ -}}
{{- define "streamcrypt.config" -}}
{{- $config := include "streamcrypt.configText" . | fromYaml -}}
{{- with $config.Error }}{{ fail (printf "config is no YAML: %s" .) }}{{ end -}}
{{- $kafka := $config.kafka | default dict -}}
{{- range $where, $properties := dict "kafka" $kafka "kafka.consumer" (merge dict ($kafka.consumer | default dict) (index $config "kafka.consumer" | default dict)) "kafka.producer" (merge dict ($kafka.producer | default dict) (index $config "kafka.producer" | default dict)) -}}
{{- range $name := list "sasl.password" "ssl.key.password" "ssl.key.pem" "ssl.keystore.password" "sasl.oauthbearer.client.secret" "sasl.oauthbearer.client.credentials.client.secret" "sasl.oauthbearer.assertion.private.key.passphrase" "sasl.oauthbearer.assertion.private.key.pem" -}}
{{- if hasKey ($properties | default dict) $name -}}
{{- /* Of this key librdkafka itself reads the file, and calls that .file in the place of .pem. */ -}}
{{- $key := "sasl.oauthbearer.assertion.private.key" -}}
{{- $file := printf "%s.file" (eq $name (print $key ".pem") | ternary $key $name) -}}
{{- fail (printf "config.%s: %s would stand in a ConfigMap. Give it with secretEnv, or as %s from a mounted Secret." $where $name $file) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if dig "http" "token" "" $config -}}
{{- fail "config.http.token would stand in a ConfigMap. Give it with secretEnv, as STREAMCRYPT__HTTP__TOKEN." -}}
{{- end -}}
{{- toJson $config -}}
{{- end -}}

{{- define "streamcrypt.port" -}}
{{- dig "http" "port" 9464 (include "streamcrypt.config" . | fromJson) | int -}}
{{- end -}}

{{- /* Ports in bootstrap.servers, as JSON. */ -}}
{{- define "streamcrypt.brokerPorts" -}}
{{- $ports := .Values.networkPolicy.brokerPorts -}}
{{- if not $ports -}}
{{- range $server := dig "kafka" "bootstrap.servers" "" (include "streamcrypt.config" . | fromJson) | splitList "," -}}
{{- with regexFind ":[0-9]+$" (trim $server) -}}
{{- $ports = append $ports (trimPrefix ":" . | int) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not $ports -}}
{{- fail "networkPolicy.brokerPorts: name the brokers' ports, because config has no bootstrap.servers with one" -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}
