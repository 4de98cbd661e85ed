// Package chart lints charts/deputy, renders it with Helm as a library, and starts the server with the
// configuration that comes out.
package chart

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const dir = "../../charts/deputy"

// object is one rendered manifest, decoded strictly: a field that Kubernetes does not know is an error.
type object struct {
	config     *corev1.ConfigMap
	deployment *appsv1.Deployment
	stateful   *appsv1.StatefulSet
	migration  *batchv1.Job
	policy     *networkingv1.NetworkPolicy
	service    *corev1.Service
	account    *corev1.ServiceAccount
	claim      *corev1.PersistentVolumeClaim
	keysClaim  *corev1.PersistentVolumeClaim
}

// workload is what runs the server: what a Deployment and a StatefulSet have in common.
func (o object) workload() (selector *metav1.LabelSelector, pod corev1.PodTemplateSpec) {
	if o.stateful != nil {
		return o.stateful.Spec.Selector, o.stateful.Spec.Template
	}
	return o.deployment.Spec.Selector, o.deployment.Spec.Template
}

// pod is that of the server.
func (o object) pod() corev1.PodSpec {
	_, pod := o.workload()
	return pod.Spec
}

// render renders the chart with values, as `helm template` does.
func render(values map[string]any) (map[string]string, error) {
	chart, err := loader.Load(dir)
	if err != nil {
		return nil, err
	}
	all, err := util.ToRenderValues(chart, values, common.ReleaseOptions{Name: "prod", Namespace: "deputy", IsInstall: true}, nil)
	if err != nil {
		return nil, err
	}
	return engine.Render(chart, all)
}

// install renders the chart and decodes all that it would create.
func install(t *testing.T, values map[string]any) object {
	t.Helper()
	files, err := render(values)
	if err != nil {
		t.Fatal(err)
	}
	var o object
	for path, text := range files {
		if strings.TrimSpace(text) == "" || filepath.Ext(path) != ".yaml" {
			continue
		}
		var into any
		switch filepath.Base(path) {
		case "claim.yaml":
			o.claim = &corev1.PersistentVolumeClaim{}
			into = o.claim
		case "configmap.yaml":
			o.config = &corev1.ConfigMap{}
			into = o.config
		case "deployment.yaml":
			o.deployment = &appsv1.Deployment{}
			into = o.deployment
		case "statefulset.yaml":
			o.stateful = &appsv1.StatefulSet{}
			into = o.stateful
		case "keysclaim.yaml":
			o.keysClaim = &corev1.PersistentVolumeClaim{}
			into = o.keysClaim
		case "migrate.yaml":
			o.migration = &batchv1.Job{}
			into = o.migration
		case "networkpolicy.yaml":
			o.policy = &networkingv1.NetworkPolicy{}
			into = o.policy
		case "service.yaml":
			o.service = &corev1.Service{}
			into = o.service
		case "serviceaccount.yaml":
			o.account = &corev1.ServiceAccount{}
			into = o.account
		default:
			t.Fatalf("%s renders to something that this test does not know", path)
		}
		if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
			t.Fatalf("%s: %v\n%s", path, err, text)
		}
	}
	if (o.deployment == nil) == (o.stateful == nil) {
		t.Fatal("the server runs in a Deployment or in a StatefulSet")
	}
	return o
}

// example reads one of the chart's ci values.
func example(t *testing.T, name string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "ci", name+"-values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	if err := yaml.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	return values
}

// examples lists the chart's ci values.
func examples(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "ci", "*-values.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no values in %s/ci (%v)", dir, err)
	}
	for i, path := range paths {
		paths[i] = strings.TrimSuffix(filepath.Base(path), "-values.yaml")
	}
	return paths
}

func TestLint(t *testing.T) {
	for _, name := range examples(t) {
		result := lint.RunAll(dir, example(t, name), "deputy")
		for _, message := range result.Messages {
			if message.Severity >= support.WarningSev {
				t.Errorf("%s: %v", name, message)
			}
		}
	}
}

func TestInstallsRestricted(t *testing.T) {
	for _, name := range examples(t) {
		o := install(t, example(t, name))
		restricted(t, name, o.pod())
		if o.migration != nil {
			restricted(t, name+"'s migration", o.migration.Spec.Template.Spec)
		}
		selector, pod := o.workload()
		if probe := pod.Spec.Containers[0].ReadinessProbe; probe == nil || (probe.GRPC == nil) != (name != "memory") {
			t.Errorf("%s: the readiness probe is %+v: gRPC health without TLS, the port with it", name, probe)
		}
		if !selects(o.service.Spec.Selector, pod.Labels) || !selects(selector.MatchLabels, pod.Labels) {
			t.Errorf("%s: the service selects %v, the pods have %v", name, o.service.Spec.Selector, pod.Labels)
		}
		if o.migration != nil && selects(o.service.Spec.Selector, o.migration.Spec.Template.Labels) {
			t.Errorf("%s: the service selects the migration", name)
		}
	}
}

// selects reports whether labels match a selector.
func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return len(selector) > 0
}

// restricted asserts what Kubernetes calls the restricted standard, and a little more.
func restricted(t *testing.T, name string, pod corev1.PodSpec) {
	t.Helper()
	if c := pod.SecurityContext; c == nil || c.RunAsNonRoot == nil || !*c.RunAsNonRoot ||
		c.SeccompProfile == nil || c.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("%s: the pod's security context is %+v", name, c)
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		t.Errorf("%s: the pod gets a token for the cluster", name)
	}
	if pod.EnableServiceLinks == nil || *pod.EnableServiceLinks {
		t.Errorf("%s: a Service's name could become a setting", name)
	}
	for _, container := range append(pod.InitContainers, pod.Containers...) {
		c := container.SecurityContext
		if c == nil || c.ReadOnlyRootFilesystem == nil || !*c.ReadOnlyRootFilesystem ||
			c.AllowPrivilegeEscalation == nil || *c.AllowPrivilegeEscalation ||
			len(c.Capabilities.Drop) != 1 || c.Capabilities.Drop[0] != "ALL" {
			t.Errorf("%s: container %s has the security context %+v", name, container.Name, c)
		}
		if container.Resources.Limits.Memory().IsZero() {
			t.Errorf("%s: container %s has no limit on memory", name, container.Name)
		}
	}
}

func TestEngines(t *testing.T) {
	postgres := install(t, example(t, "postgres"))
	if postgres.migration == nil || !strings.Contains(postgres.migration.Annotations["helm.sh/hook"], "pre-upgrade") {
		t.Fatalf("postgres: the migration is %+v", postgres.migration)
	}
	server, migration := postgres.pod().Containers[0], postgres.migration.Spec.Template.Spec.Containers[0]
	if len(server.Env) != 1 || server.Env[0].Name != "DEPUTY_DATASTORE_CONN_URI" || server.Env[0].ValueFrom.SecretKeyRef.Name != "deputy-database" {
		t.Errorf("postgres: the server has the variables %+v", server.Env)
	}
	if len(migration.Env) != 2 || migration.Env[0].Name != "DEPUTY_ENGINE" || migration.Env[0].Value != "postgres" ||
		migration.Env[1].ValueFrom == nil || *migration.Env[1].ValueFrom.SecretKeyRef != *server.Env[0].ValueFrom.SecretKeyRef {
		t.Errorf("postgres: the migration has the variables %+v", migration.Env)
	}
	if len(migration.VolumeMounts) != 0 {
		t.Errorf("postgres: the migration mounts %+v, which is not there before the first install", migration.VolumeMounts)
	}
	if len(postgres.policy.Spec.Ingress) != 1 || len(postgres.policy.Spec.Ingress[0].From) != 1 {
		t.Errorf("postgres: the policy is %+v", postgres.policy.Spec)
	}

	following := example(t, "postgres")
	following["engine"] = map[string]any{"kind": "postgres", "existingSecret": "deputy-database", "follow": true}
	follows := install(t, following)
	if config := follows.config.Data["deputy.yaml"]; !strings.Contains(config, "follow: true\n") || !strings.Contains(config, "follow-dir: /var/lib/deputy-copy/copy\n") {
		t.Errorf("postgres, followed: the settings are\n%s", config)
	}
	pod := follows.pod()
	if at := slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == "copy" }); at < 0 || pod.Volumes[at].EmptyDir == nil {
		t.Errorf("postgres, followed: the pod has the volumes %+v", pod.Volumes)
	}
	if mounts := pod.Containers[0].VolumeMounts; !slices.ContainsFunc(mounts, func(m corev1.VolumeMount) bool {
		return m.Name == "copy" && m.MountPath == "/var/lib/deputy-copy"
	}) {
		t.Errorf("postgres, followed: the server mounts %+v", mounts)
	}
	if pod.Containers[0].StartupProbe.TCPSocket == nil {
		t.Error("postgres, followed: a pod whose copy takes long to load would be killed")
	}
	if strings.Contains(postgres.config.Data["deputy.yaml"], "follow") {
		t.Error("postgres: it follows, and nobody said so")
	}

	embedded := install(t, example(t, "embedded"))
	if c := embedded.claim; c == nil || c.Name != "prod-deputy-data" || c.Spec.Resources.Requests.Storage().String() != "20Gi" || *c.Spec.StorageClassName != "fast" {
		t.Errorf("embedded: the claim is %+v", c)
	}
	if embedded.deployment.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
		t.Error("embedded: a new pod starts while the old one has the directory")
	}
	if claimed := claims(embedded); claimed["data"] != "prod-deputy-data" || !strings.Contains(embedded.config.Data["deputy.yaml"], "data-dir: /var/lib/deputy/data") {
		t.Errorf("embedded: the pod has the claims %q and the settings\n%s", claimed, embedded.config.Data["deputy.yaml"])
	}
	values := example(t, "embedded")
	values["persistence"] = map[string]any{"existingClaim": "mine"}
	if o := install(t, values); o.claim != nil {
		t.Error("embedded: a claim is made beside the one that is there")
	}

	memory := install(t, example(t, "memory"))
	if memory.claim != nil {
		t.Error("memory: there is nothing to keep")
	}
	if memory.policy == nil || len(memory.policy.Spec.Ingress) != 0 {
		t.Errorf("memory: a policy without peers must admit nobody: %+v", memory.policy)
	}
	if env := memory.pod().Containers[0].Env; memory.migration != nil || len(env) != 0 {
		t.Errorf("memory: there is nothing to migrate and nothing to connect to: %+v, %+v", memory.migration, env)
	}

	remote := install(t, example(t, "remote"))
	if remote.migration != nil {
		t.Error("remote: its SpiceDB migrates its own database")
	}
	if remote.account != nil || remote.pod().ServiceAccountName != "default" {
		t.Error("remote: serviceAccount.create is false")
	}
	if env := remote.pod().Containers[0].Env; len(env) != 1 || env[0].Name != "DEPUTY_REMOTE_PRESHARED_KEY" {
		t.Errorf("remote: the variables are %+v", env)
	}
}

// claims are those of the pod's volumes.
func claims(o object) map[string]string {
	claimed := map[string]string{}
	for _, v := range o.pod().Volumes {
		if v.PersistentVolumeClaim != nil {
			claimed[v.Name] = v.PersistentVolumeClaim.ClaimName
		}
	}
	return claimed
}

// TestJournal: each replica has a journal of its own on a volume that stays with it, and its keys are never on that volume.
func TestJournal(t *testing.T) {
	embedded := install(t, example(t, "embedded"))
	if c := embedded.keysClaim; c == nil || claims(embedded)["journal-keys"] != c.Name || c.Name == embedded.claim.Name {
		t.Errorf("embedded: the keys are on %v, and the claim is %+v", claims(embedded), c)
	}
	if config := embedded.config.Data["deputy.yaml"]; !strings.Contains(config, "journal-key-dir: /var/lib/deputy-keys/keys\n") {
		t.Errorf("embedded: the settings are\n%s", config)
	}
	values := example(t, "embedded")
	values["journal"] = map[string]any{"keys": map[string]any{"existingClaim": "mine"}}
	if o := install(t, values); o.keysClaim != nil || claims(o)["journal-keys"] != "mine" {
		t.Errorf("embedded, with a claim that is there: the keys are on %v, beside %v", claims(o), o.keysClaim)
	}
	values["journal"] = map[string]any{"keys": map[string]any{"existingSecret": "mine"}}
	if o := install(t, values); o.keysClaim != nil || !strings.Contains(o.config.Data["deputy.yaml"], "journal-key-dir: /etc/deputy/journal-keys\n") {
		t.Errorf("embedded, with a Secret: beside %v, the settings are\n%s", o.keysClaim, o.config.Data["deputy.yaml"])
	}

	postgres := install(t, example(t, "postgres"))
	if s := postgres.stateful; s == nil || len(s.Spec.VolumeClaimTemplates) != 1 || s.Spec.VolumeClaimTemplates[0].Name != "journal" ||
		s.Spec.VolumeClaimTemplates[0].Spec.Resources.Requests.Storage().String() != "20Gi" || *s.Spec.Replicas != 2 {
		t.Fatalf("postgres: it runs in %+v", s)
	}
	if config := postgres.config.Data["deputy.yaml"]; !strings.Contains(config, "journal-dir: /var/lib/deputy-journal/journal\n") ||
		!strings.Contains(config, "journal-key-dir: /etc/deputy/journal-keys\n") {
		t.Errorf("postgres: the settings are\n%s", config)
	}
	for _, name := range []string{"remote", "memory"} {
		o := install(t, example(t, name))
		if o.deployment == nil || o.keysClaim != nil || !strings.Contains(o.config.Data["deputy.yaml"], `journal: "off"`) {
			t.Errorf("%s has a journal, or does not say that it has none: the settings are\n%s", name, o.config.Data["deputy.yaml"])
		}
	}
	for _, name := range examples(t) { // no directory below another's volume
		o := install(t, example(t, name))
		for _, a := range o.pod().Containers[0].VolumeMounts {
			for _, b := range o.pod().Containers[0].VolumeMounts {
				if strings.HasPrefix(b.MountPath, a.MountPath+"/") {
					t.Errorf("%s: %s lies on the volume of %s", name, b.Name, a.Name)
				}
			}
		}
	}
}

// TestHTTP: with HTTP there is a port at the pod and at the service, for the peers that may reach the server; without there is none.
func TestHTTP(t *testing.T) {
	values := example(t, "embedded")
	values["http"] = map[string]any{"enabled": true, "port": 8181, "origins": []any{"https://console.example.com"}}
	values["networkPolicy"] = map[string]any{"enabled": true, "from": []any{map[string]any{"podSelector": map[string]any{}}}}
	on, off := install(t, values), install(t, example(t, "embedded"))
	if config := on.config.Data["deputy.yaml"]; !strings.Contains(config, `http-listen: ":8181"`) || !strings.Contains(config, "http-origin:\n  - https://console.example.com") {
		t.Errorf("the server's configuration:\n%s", config)
	}
	if ports := on.pod().Containers[0].Ports; len(ports) != 2 || ports[1].Name != "http" || ports[1].ContainerPort != 8181 {
		t.Errorf("the pod's ports: %v", ports)
	}
	if ports := on.service.Spec.Ports; len(ports) != 2 || ports[1].Port != 8181 || ports[1].TargetPort.StrVal != "http" {
		t.Errorf("the service's ports: %v", ports)
	}
	if rules := on.policy.Spec.Ingress; len(rules) != 1 || len(rules[0].Ports) != 2 || rules[0].Ports[1].Port.StrVal != "http" {
		t.Errorf("the policy's rules: %v", rules)
	}
	if strings.Contains(off.config.Data["deputy.yaml"], "http-") || len(off.pod().Containers[0].Ports) != 1 || len(off.service.Spec.Ports) != 1 {
		t.Error("there is a port for HTTP that nobody asked for")
	}
}

// TestMetrics: with metrics Prometheus has a port, at the pod and at the service, and a policy of its own; without there is neither.
func TestMetrics(t *testing.T) {
	values := example(t, "postgres")
	values["metrics"] = map[string]any{"enabled": true, "port": 9100}
	values["networkPolicy"] = map[string]any{"enabled": true, "metricsFrom": []any{map[string]any{"podSelector": map[string]any{}}}}
	on, off := install(t, values), install(t, example(t, "postgres"))
	if config := on.config.Data["deputy.yaml"]; !strings.Contains(config, `metrics-addr: ":9100"`) {
		t.Errorf("the settings are\n%s", config)
	}
	ports := on.pod().Containers[0].Ports
	if len(ports) != 2 || ports[1].Name != "metrics" || ports[1].ContainerPort != 9100 {
		t.Errorf("the pod has the ports %+v", ports)
	}
	if ports := on.service.Spec.Ports; len(ports) != 2 || ports[1].Port != 9100 || ports[1].TargetPort.StrVal != "metrics" {
		t.Errorf("the service has the ports %+v", ports)
	}
	if rules := on.policy.Spec.Ingress; len(rules) != 1 || len(rules[0].From) != 1 || len(rules[0].Ports) != 1 || rules[0].Ports[0].Port.StrVal != "metrics" {
		t.Errorf("the policy admits %+v", rules)
	}
	if strings.Contains(off.config.Data["deputy.yaml"], "metrics") || len(off.pod().Containers[0].Ports) != 1 || len(off.service.Spec.Ports) != 1 {
		t.Error("there is a port for metrics that nobody asked for")
	}
}

// TestStops: a pod still takes calls while load balancers notice that it stops, and Kubernetes waits for all that the server does.
func TestStops(t *testing.T) {
	for _, name := range examples(t) {
		o := install(t, example(t, name))
		// The server's own grace is 10 s, and it ends 5 s later at most.
		if grace := *o.pod().TerminationGracePeriodSeconds; !strings.Contains(o.config.Data["deputy.yaml"], "shutdown-delay: 5s") || grace < 5+10+5 {
			t.Errorf("%s: the pod has %d s, and the settings\n%s", name, grace, o.config.Data["deputy.yaml"])
		}
	}
	values := example(t, "memory")
	values["settings"] = map[string]any{"shutdown-delay": "20s"}
	if config := install(t, values).config.Data["deputy.yaml"]; strings.Count(config, "shutdown-delay:") != 1 || !strings.Contains(config, "shutdown-delay: 20s") {
		t.Errorf("a delay of the user's own makes the settings\n%s", config)
	}
}

// A server with callers needs no key that is bound to nothing: neither the Secret nor the settings name one.
func TestCallersAlone(t *testing.T) {
	values := example(t, "memory")
	values["auth"] = map[string]any{"existingSecret": "s", "serviceKeys": false, "adminKeys": false, "callers": true}
	all, err := render(values)
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprint(all); strings.Contains(text, "preshared-key") || !strings.Contains(text, "callers.yaml") || !strings.Contains(text, "token-key") {
		t.Errorf("it is rendered as\n%s", text)
	}
}

// What would not start, or would be open to the network, is refused before it reaches the cluster.
func TestRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		from   string
		change map[string]any
		want   string
	}{
		{"no TLS", "postgres", map[string]any{"tls": map[string]any{"existingSecret": ""}}, "set tls.existingSecret"},
		{"both", "postgres", map[string]any{"insecure": true}, "exclude each other"},
		{"authorities without TLS", "memory", map[string]any{"tls": map[string]any{"clientAuthorities": "ca.crt"}}, "need TLS: set tls.existingSecret"},
		{"a trust domain without authorities", "postgres", map[string]any{"tls": map[string]any{"existingSecret": "s", "spiffeTrustDomain": "example.org"}}, "need tls.clientAuthorities"},
		{"the key as authorities", "postgres", map[string]any{"tls": map[string]any{"existingSecret": "s", "clientAuthorities": "tls.key"}}, "/tls/clientAuthorities"},
		{"another word for require", "postgres", map[string]any{"tls": map[string]any{"existingSecret": "s", "clientAuth": "always"}}, "/tls/clientAuth"},
		{"no keys", "postgres", map[string]any{"auth": map[string]any{"existingSecret": ""}}, "/auth/existingSecret"},
		{"nobody who could call", "memory", map[string]any{"auth": map[string]any{"existingSecret": "s", "serviceKeys": false, "adminKeys": false}}, "nobody could call the server"},
		{"no image", "postgres", map[string]any{"image": map[string]any{"repository": ""}}, "/image/repository"},
		{"no engine", "postgres", map[string]any{"engine": map[string]any{"kind": ""}}, "/engine/kind"},
		{"an unknown engine", "postgres", map[string]any{"engine": map[string]any{"kind": "sqlite"}}, "/engine/kind"},
		{"no database", "postgres", map[string]any{"engine": map[string]any{"kind": "postgres", "existingSecret": ""}}, "needs engine.existingSecret"},
		{"a copy of what is near", "embedded", map[string]any{"engine": map[string]any{"kind": "embedded", "follow": true}}, "engine.follow is for engine.kind postgres"},
		{"two memories", "memory", map[string]any{"replicaCount": 2}, "a graph for each replica"},
		{"two stores", "embedded", map[string]any{"replicaCount": 2}, "a graph for each replica"},
		{"another directory", "embedded", map[string]any{"settings": map[string]any{"data-dir": "/tmp"}}, "additional properties 'data-dir' not allowed"},
		{"no keys for journals", "postgres", map[string]any{"journal": map[string]any{}}, "needs journal.keys.existingSecret"},
		{"two places for keys", "embedded", map[string]any{"journal": map[string]any{"keys": map[string]any{"existingSecret": "s", "existingClaim": "c"}}}, "exclude each other"},
		{"no endpoint", "remote", map[string]any{"engine": map[string]any{"kind": "remote", "existingSecret": "s"}}, "engine.remote.endpoint"},
		{"a key in the settings", "memory", map[string]any{"settings": map[string]any{"preshared-key": "s3cret"}}, "additional properties 'preshared-key' not allowed"},
		{"another address", "memory", map[string]any{"settings": map[string]any{"addr": ":1"}}, "additional properties 'addr' not allowed"},
		{"a misspelt setting", "memory", map[string]any{"settings": map[string]any{"log-levl": "debug"}}, "additional properties 'log-levl' not allowed"},
		{"a development server", "memory", map[string]any{"settings": map[string]any{"dev": true}}, "additional properties 'dev' not allowed"},
		{"a log level that is none", "memory", map[string]any{"settings": map[string]any{"log-level": "loud"}}, "/settings/log-level"},
		{"metrics on the server's port", "memory", map[string]any{"metrics": map[string]any{"enabled": true, "port": 50051}}, "/metrics/port"},
		{"a misspelt value", "memory", map[string]any{"replicas": 2}, "replicas"},
		{"the defaults", "", nil, "/image/repository"},
	} {
		values := map[string]any{}
		if test.from != "" {
			values = example(t, test.from)
		}
		maps.Copy(values, test.change)
		if _, err := render(values); err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want an error with %q", test.name, err, test.want)
		}
	}
}
