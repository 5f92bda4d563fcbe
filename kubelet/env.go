package kubelet

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"orrery/kubelet/volumes"
)

// environment is the variables of a container: services first, so that envFrom
// and env may replace them.
//
// Upstream: pkg/kubelet/kubelet_pods.go, makeEnvironmentVariables.
// Left out: fileKeyRef.
func (k *Kubelet) environment(ctx context.Context, pod *corev1.Pod, c *corev1.Container, ips []string) ([]corev1.EnvVar, error) {
	values := map[string]string{}
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	if k.services != nil && !isStatic(pod) && !closed(k.services.Synced()) {
		return nil, errors.New("services have not yet been read at least once, cannot construct envvars")
	}
	if k.services != nil {
		serviceEnv(values, k.services.List(), pod.Namespace, links)
	}
	for _, from := range c.EnvFrom {
		if err := k.envFrom(ctx, pod, from, values); err != nil {
			return nil, err
		}
	}
	services := make(map[string]string, len(values))
	for name, v := range values {
		services[name] = v
	}
	var out []corev1.EnvVar
	for _, e := range c.Env {
		v := expand(e.Value, values)
		if e.ValueFrom != nil {
			var ok bool
			var err error
			if v, ok, err = k.valueFrom(ctx, pod, c, e.ValueFrom, ips); err != nil {
				return nil, err
			} else if !ok {
				continue
			}
		}
		values[e.Name] = v
		delete(services, e.Name)
		out = append(out, corev1.EnvVar{Name: e.Name, Value: v})
	}
	names := make([]string, 0, len(services))
	for name := range services {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		out = append(out, corev1.EnvVar{Name: name, Value: services[name]})
	}
	return dedupe(out), nil
}

// dedupe keeps the last of several variables of one name.
func dedupe(list []corev1.EnvVar) []corev1.EnvVar {
	last := map[string]string{}
	for _, e := range list {
		last[e.Name] = e.Value
	}
	out := list[:0]
	for _, e := range list {
		if v, ok := last[e.Name]; ok {
			out = append(out, corev1.EnvVar{Name: e.Name, Value: v})
			delete(last, e.Name)
		}
	}
	return out
}

func (k *Kubelet) envFrom(ctx context.Context, pod *corev1.Pod, from corev1.EnvFromSource, values map[string]string) error {
	switch {
	case from.ConfigMapRef != nil:
		cm, err := k.objects.ConfigMap(ctx, pod.Namespace, from.ConfigMapRef.Name)
		if err != nil {
			return missing(err, from.ConfigMapRef.Optional)
		}
		for key, v := range cm.Data {
			values[from.Prefix+key] = v
		}
	case from.SecretRef != nil:
		s, err := k.objects.Secret(ctx, pod.Namespace, from.SecretRef.Name)
		if err != nil {
			return missing(err, from.SecretRef.Optional)
		}
		for key, v := range s.Data {
			values[from.Prefix+key] = string(v)
		}
	}
	return nil
}

// missing forgives the absence of an object that is optional.
func missing(err error, optional *bool) error {
	if apierrors.IsNotFound(err) && optional != nil && *optional {
		return nil
	}
	return err
}

// valueFrom looks a value up; ok is false for an optional one that is not there.
func (k *Kubelet) valueFrom(ctx context.Context, pod *corev1.Pod, c *corev1.Container, from *corev1.EnvVarSource, ips []string) (v string, ok bool, err error) {
	switch {
	case from.FieldRef != nil:
		v, err = volumes.Field(k.withIPs(pod, ips), from.FieldRef.FieldPath)
		return v, true, err
	case from.ResourceFieldRef != nil:
		if name := from.ResourceFieldRef.ContainerName; name != "" {
			if c = findSpec(pod, name); c == nil {
				return "", false, fmt.Errorf("container %s not found", name)
			}
		}
		v, err = volumes.Resource(c, from.ResourceFieldRef, k.allocatable())
		return v, true, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		cm, err := k.objects.ConfigMap(ctx, pod.Namespace, ref.Name)
		if err != nil {
			return "", false, missing(err, ref.Optional)
		}
		if v, ok = cm.Data[ref.Key]; !ok && (ref.Optional == nil || !*ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return v, ok, nil
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		s, err := k.objects.Secret(ctx, pod.Namespace, ref.Name)
		if err != nil {
			return "", false, missing(err, ref.Optional)
		}
		raw, ok := s.Data[ref.Key]
		if !ok && (ref.Optional == nil || !*ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return string(raw), ok, nil
	}
	return "", true, nil
}

// withIPs is a pod whose status has the addresses that fieldRef may ask for;
// they are known here before they are in the API.
func (k *Kubelet) withIPs(pod *corev1.Pod, ips []string) *corev1.Pod {
	pod = pod.DeepCopy()
	if k.cfg.NodeIP.IsValid() {
		pod.Status.HostIP = k.cfg.NodeIP.String()
		pod.Status.HostIPs = []corev1.HostIP{{IP: pod.Status.HostIP}}
		if pod.Spec.HostNetwork {
			ips = []string{pod.Status.HostIP}
		}
	}
	pod.Status.PodIPs = nil
	for i, ip := range ips {
		if i == 0 {
			pod.Status.PodIP = ip
		}
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	return pod
}

// serviceEnv adds the variables by which a pod finds services without DNS: those
// of its namespace, and always those of default/kubernetes.
//
// Upstream: pkg/kubelet/envvars/envvars.go, FromServices.
func serviceEnv(values map[string]string, services []*corev1.Service, namespace string, links bool) {
	chosen := map[string]*corev1.Service{}
	for _, s := range services {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		switch {
		case s.Namespace == namespace && links:
			chosen[s.Name] = s
		case s.Namespace == "default" && s.Name == "kubernetes" && chosen[s.Name] == nil:
			chosen[s.Name] = s
		}
	}
	for _, s := range chosen {
		name := strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
		ip, first := s.Spec.ClusterIP, s.Spec.Ports[0]
		values[name+"_SERVICE_HOST"] = ip
		values[name+"_SERVICE_PORT"] = strconv.Itoa(int(first.Port))
		for i, p := range s.Spec.Ports {
			protocol := string(p.Protocol)
			if protocol == "" {
				protocol = "TCP"
			}
			url := fmt.Sprintf("%s://%s:%d", strings.ToLower(protocol), bracket(ip), p.Port)
			if p.Name != "" {
				values[name+"_SERVICE_PORT_"+strings.ToUpper(strings.ReplaceAll(p.Name, "-", "_"))] = strconv.Itoa(int(p.Port))
			}
			if i == 0 {
				values[name+"_PORT"] = url
			}
			prefix := fmt.Sprintf("%s_PORT_%d_%s", name, p.Port, strings.ToUpper(protocol))
			values[prefix], values[prefix+"_PROTO"] = url, strings.ToLower(protocol)
			values[prefix+"_PORT"], values[prefix+"_ADDR"] = strconv.Itoa(int(p.Port)), ip
		}
	}
}

func bracket(ip string) string {
	if strings.Contains(ip, ":") {
		return "[" + ip + "]"
	}
	return ip
}

// expand replaces $(NAME) by its value; $$ is a dollar, and what is unknown stays.
//
// Upstream: third_party/forked/golang/expansion, Expand.
func expand(s string, values map[string]string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i:], ')')
			if end < 0 {
				b.WriteByte('$')
				continue
			}
			name := s[i+2 : i+end]
			if v, ok := values[name]; ok {
				b.WriteString(v)
			} else {
				b.WriteString(s[i : i+end+1])
			}
			i += end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}

func expandAll(list []string, values map[string]string) []string {
	out := make([]string, 0, len(list))
	for _, s := range list {
		out = append(out, expand(s, values))
	}
	return out
}
