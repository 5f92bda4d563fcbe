package kubelet

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hostname is a pod's host name: its own wish or its name, cut to what a kernel takes.
func hostname(pod *corev1.Pod) string {
	name := pod.Name
	if pod.Spec.Hostname != "" {
		name = pod.Spec.Hostname
	}
	if pod.Spec.HostnameOverride != nil {
		name = *pod.Spec.HostnameOverride
	}
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "-.")
	}
	if pod.Spec.SetHostnameAsFQDN != nil && *pod.Spec.SetHostnameAsFQDN && pod.Spec.Subdomain != "" {
		return name + "." + pod.Spec.Subdomain + "." + pod.Namespace + ".svc.cluster.local"
	}
	return name
}

// hostsFile is a pod's /etc/hosts.
//
// Upstream: pkg/kubelet/kubelet_pods.go, ensureHostsFile.
func hostsFile(pod *corev1.Pod, ips []string, domain string) ([]byte, error) {
	var b bytes.Buffer
	if pod.Spec.HostNetwork {
		host, err := os.ReadFile("/etc/hosts")
		if err != nil {
			return nil, err
		}
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.Write(host)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n" +
			"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		for _, ip := range ips {
			if pod.Spec.Subdomain != "" {
				fmt.Fprintf(&b, "%s\t%s.%s.%s.svc.%s\t%s\n", ip, hostname(pod), pod.Spec.Subdomain, pod.Namespace, domain, hostname(pod))
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, hostname(pod))
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return b.Bytes(), nil
}

// dnsConfig is a pod's resolv.conf by its DNS policy.
//
// Upstream: pkg/kubelet/network/dns/dns.go, GetPodDNS.
func (k *Kubelet) dnsConfig(pod *corev1.Pod) (*cri.DNSConfig, error) {
	host, err := parseResolvConf(*k.cfg.Settings.ResolverConfig)
	if err != nil {
		return nil, err
	}
	config := host
	policy := pod.Spec.DNSPolicy
	switch {
	case policy == corev1.DNSNone:
		config = &cri.DNSConfig{}
	case (policy == corev1.DNSClusterFirst && !pod.Spec.HostNetwork || policy == corev1.DNSClusterFirstWithHostNet) && len(k.cfg.Settings.ClusterDNS) > 0:
		domain := k.cfg.Settings.ClusterDomain
		searches := []string{pod.Namespace + ".svc." + domain, "svc." + domain, domain}
		for _, s := range host.Searches {
			if !slices.Contains(searches, s) {
				searches = append(searches, s)
			}
		}
		config = &cri.DNSConfig{Servers: k.cfg.Settings.ClusterDNS, Searches: searches, Options: []string{"ndots:5"}}
	}
	if own := pod.Spec.DNSConfig; own != nil {
		config = &cri.DNSConfig{Servers: append(slices.Clone(config.Servers), own.Nameservers...),
			Searches: append(slices.Clone(config.Searches), own.Searches...), Options: slices.Clone(config.Options)}
		for _, o := range own.Options {
			opt := o.Name
			config.Options = slices.DeleteFunc(config.Options, func(have string) bool { return have == opt || strings.HasPrefix(have, opt+":") })
			if o.Value != nil {
				opt += ":" + *o.Value
			}
			config.Options = append(config.Options, opt)
		}
	}
	return config, nil
}

func parseResolvConf(path string) (*cri.DNSConfig, error) {
	out := &cri.DNSConfig{}
	if path == "" {
		return out, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			out.Servers = append(out.Servers, fields[1])
		case "search":
			out.Searches = fields[1:]
		case "options":
			out.Options = fields[1:]
		}
	}
	return out, nil
}
