package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"orrery/apiserver"
	"orrery/apiserver/store"
	"orrery/apiserver/store/etcd"
	"orrery/client/timing"
	"orrery/cmd/internal/version"

	"github.com/spf13/pflag"
)

// options are the flags as they come, before they become a Config.
type options struct {
	config      apiserver.Config
	advertise   string
	serviceCIDR string
	nodePorts   string
	auditLog    string
	verbosity   int

	etcd struct {
		external etcd.Config
		dataDir  string
	}
}

func defaults() *options {
	o := &options{}
	o.config.Version = version.Kubernetes
	o.config.Times = apiserver.Times{EventTTL: timing.EventTTL, Compaction: timing.CompactionInterval,
		RequestTimeout: timing.RequestTimeout, BookmarkPeriod: timing.BookmarkPeriod,
		MinRequestTimeout: 30 * time.Minute, Shutdown: 10 * time.Second}
	return o
}

// flags declares them.
//
// Upstream: cmd/kube-apiserver/app/options/options.go, ServerRunOptions.Flags.
func (o *options) flags(f *pflag.FlagSet) {
	c := &o.config
	f.StringVar(&c.BindAddress, "bind-address", "0.0.0.0", "IP address to listen on")
	f.IntVar(&c.SecurePort, "secure-port", 6443, "port to serve HTTPS on")
	f.StringVar(&o.advertise, "advertise-address", "", "IP address at which the cluster reaches this server; default: that of the bind address, or of the host")
	f.StringVar(&c.TLSCertFile, "tls-cert-file", "", "serving certificate, PEM")
	f.StringVar(&c.TLSKeyFile, "tls-private-key-file", "", "its private key, PEM")
	f.IntVar(&c.MaxRequestsInFlight, "max-requests-inflight", 400, "how many reads may run at once; 0 is no limit")
	f.IntVar(&c.MaxMutatingInFlight, "max-mutating-requests-inflight", 200, "how many writes may run at once; 0 is no limit")
	f.DurationVar(&c.Times.RequestTimeout, "request-timeout", c.Times.RequestTimeout, "how long an ordinary request may take")
	min := f.Int("min-request-timeout", 1800, "least life of a watch, in seconds")
	f.Lookup("min-request-timeout").Value = secondsValue{&c.Times.MinRequestTimeout, min}
	f.DurationVar(&c.Times.EventTTL, "event-ttl", c.Times.EventTTL, "how long Events are kept")
	f.DurationVar(&c.Times.Compaction, "etcd-compaction-interval", c.Times.Compaction, "how often old revisions are dropped; 0 is never")
	f.StringVar(&o.serviceCIDR, "service-cluster-ip-range", "10.0.0.0/24", "CIDR that cluster IPs of services are from")
	f.StringVar(&o.nodePorts, "service-node-port-range", "30000-32767", "ports that NodePort services may have")

	f.StringVar(&c.KubeletClientCertificate, "kubelet-client-certificate", "", "client certificate for kubelets")
	f.StringVar(&c.KubeletClientKey, "kubelet-client-key", "", "its private key")
	f.StringVar(&c.KubeletCAFile, "kubelet-certificate-authority", "", "CA that kubelets' certificates must chain to; default: they are not checked")
	f.StringSliceVar(&c.KubeletAddressTypes, "kubelet-preferred-address-types", []string{"Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP"}, "addresses of a node to try, in order")

	f.StringVar(&c.ProxyClientCertificate, "proxy-client-cert-file", "", "client certificate towards aggregated API servers")
	f.StringVar(&c.ProxyClientKey, "proxy-client-key-file", "", "its private key")

	f.StringSliceVar(&c.AuthorizationModes, "authorization-mode", []string{"AlwaysAllow"}, "authorizers to ask in order: Node, RBAC, AlwaysAllow, AlwaysDeny")
	f.StringSliceVar(&c.EnableAdmission, "enable-admission-plugins", nil, "admission plugins to add to the default ones")
	f.StringSliceVar(&c.DisableAdmission, "disable-admission-plugins", nil, "admission plugins to leave out")
	c.NotReadyTolerationSeconds = f.Int64("default-not-ready-toleration-seconds", int64(timing.NotReadyToleration/time.Second), "how long pods stay on a node that is not ready, unless they say otherwise")
	c.UnreachableTolerationSeconds = f.Int64("default-unreachable-toleration-seconds", int64(timing.UnreachableToleration/time.Second), "how long pods stay on a node that is unreachable, unless they say otherwise")
	f.StringVar(&o.auditLog, "audit-log-path", "", "file that gets a line for every request, at level Metadata; - is standard output")
	o.authenticationFlags(f)
	o.storeFlags(f)
	f.BoolVar(&c.Profiling, "profiling", true, "serve profiles of this process at /debug/pprof/")
	f.IntVarP(&o.verbosity, "v", "v", 0, "log verbosity; 4 and more shows debug lines")
	// Taken for the sake of manifests that set them; there is nothing to choose here.
	f.Bool("allow-privileged", true, "privileged containers are always allowed")
	f.String("feature-gates", "", "accepted and ignored")
	f.String("audit-policy-file", "", "accepted and ignored: all requests are logged at level Metadata")
}

func (o *options) authenticationFlags(f *pflag.FlagSet) {
	a := &o.config.Authentication
	f.StringVar(&a.ClientCAFile, "client-ca-file", "", "CA of client certificates")
	f.BoolVar(&a.Anonymous, "anonymous-auth", true, "let requests without credentials through as system:anonymous")
	f.BoolVar(&a.BootstrapTokens, "enable-bootstrap-token-auth", false, "accept bootstrap tokens (secrets in kube-system)")
	f.StringVar(&a.RequestHeaderCAFile, "requestheader-client-ca-file", "", "CA of front proxies' client certificates")
	f.StringSliceVar(&a.RequestHeaderAllowedNames, "requestheader-allowed-names", nil, "common names that front proxies may have; empty is any")
	f.StringSliceVar(&a.RequestHeaderUsername, "requestheader-username-headers", nil, "headers with the user name")
	f.StringSliceVar(&a.RequestHeaderGroup, "requestheader-group-headers", nil, "headers with groups")
	f.StringSliceVar(&a.RequestHeaderExtraPrefix, "requestheader-extra-headers-prefix", nil, "prefixes of headers with more about the user")
	f.StringArrayVar(&a.ServiceAccountIssuers, "service-account-issuer", nil, "issuer of service account tokens; the first one signs")
	f.StringArrayVar(&a.ServiceAccountKeyFiles, "service-account-key-file", nil, "public (or private) keys that tokens are checked with")
	f.StringVar(&a.ServiceAccountSigningKey, "service-account-signing-key-file", "", "private key that tokens are signed with")
	f.BoolVar(&a.ServiceAccountExtendedToken, "service-account-extend-token-expiration", true, "let pods' own tokens live for a year and warn when they are old")
	f.StringSliceVar(&a.APIAudiences, "api-audiences", nil, "audiences of tokens for this server; default: the issuers")
}

func (o *options) storeFlags(f *pflag.FlagSet) {
	e := &o.etcd
	f.StringSliceVar(&e.external.Servers, "etcd-servers", nil, "URLs of an etcd; without it one runs inside")
	f.StringVar(&e.external.CAFile, "etcd-cafile", "", "CA of its certificates")
	f.StringVar(&e.external.CertFile, "etcd-certfile", "", "client certificate for it")
	f.StringVar(&e.external.KeyFile, "etcd-keyfile", "", "its private key")
	f.StringVar(&e.dataDir, "data-dir", "", "data directory of the etcd that runs inside")
}

// secondsValue is a flag that counts seconds.
type secondsValue struct {
	to *time.Duration
	n  *int
}

func (v secondsValue) String() string { return fmt.Sprint(*v.n) }
func (v secondsValue) Type() string   { return "int" }
func (v secondsValue) Set(s string) error {
	if _, err := fmt.Sscan(s, v.n); err != nil {
		return err
	}
	*v.to = time.Duration(*v.n) * time.Second
	return nil
}

// complete checks what flags say together, and fills in what follows from them.
func (o *options) complete() error {
	c := &o.config
	var err error
	if c.ServiceCIDR, err = netip.ParsePrefix(o.serviceCIDR); err != nil {
		return fmt.Errorf("--service-cluster-ip-range: %w", err)
	}
	if _, err := fmt.Sscanf(o.nodePorts, "%d-%d", &c.FirstNodePort, &c.LastNodePort); err != nil {
		return fmt.Errorf("--service-node-port-range %q: %w", o.nodePorts, err)
	}
	if c.TLSCertFile == "" || c.TLSKeyFile == "" {
		return errors.New("--tls-cert-file and --tls-private-key-file are needed: there is no insecure port")
	}
	if (o.etcd.dataDir == "") == (len(o.etcd.external.Servers) == 0) {
		return errors.New("either --data-dir (etcd inside) or --etcd-servers (etcd elsewhere) is needed")
	}
	switch o.auditLog {
	case "":
	case "-":
		c.AuditLog = os.Stdout
	default:
		if c.AuditLog, err = os.OpenFile(o.auditLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
			return fmt.Errorf("--audit-log-path: %w", err)
		}
	}
	if o.advertise == "" {
		o.advertise = o.config.BindAddress
	}
	if c.AdvertiseAddress, err = netip.ParseAddr(o.advertise); err != nil {
		return fmt.Errorf("--advertise-address: %w", err)
	}
	if c.AdvertiseAddress.IsUnspecified() {
		c.AdvertiseAddress, err = hostAddress()
	}
	return err
}

// hostAddress is the first address of this host that others can reach.
func hostAddress() (netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			return p.Addr(), nil
		}
	}
	return netip.Addr{}, errors.New("no address to advertise was found; set --advertise-address")
}

const etcdReadyWithin = time.Minute

func (o *options) openStore(ctx context.Context) (store.Store, error) {
	e := &o.etcd
	if len(e.external.Servers) > 0 {
		return etcd.Open(ctx, e.external)
	}
	if _, err := os.Stat(e.dataDir); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	return etcd.Embed(etcd.EmbedConfig{DataDir: e.dataDir, ReadyWithin: etcdReadyWithin})
}
