package apiserver

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"orrery/apiserver/store"
)

// Config is what a Server is made from; the command's flags fill it in. The
// comments name the flags. File names are read by New.
type Config struct {
	// Store holds everything. The server closes it at the end of Run.
	Store store.Store
	// Version is what /version reports, as "v1.36.3+orrery".
	Version string
	Log     *slog.Logger

	// Listener is where to serve; when it is nil, Run listens on BindAddress and
	// SecurePort. Without a TLS certificate the server speaks plain HTTP: tests only.
	Listener                 net.Listener
	BindAddress              string     // --bind-address
	SecurePort               int        // --secure-port
	TLSCertFile, TLSKeyFile  string     // --tls-cert-file, --tls-private-key-file
	AdvertiseAddress         netip.Addr // --advertise-address
	MaxRequestsInFlight      int        // --max-requests-inflight; 0 is no limit
	MaxMutatingInFlight      int        // --max-mutating-requests-inflight; 0 is no limit
	Profiling                bool       // --profiling: serve /debug/pprof/
	KubeletClientCertificate string     // --kubelet-client-certificate
	KubeletClientKey         string     // --kubelet-client-key
	KubeletCAFile            string     // --kubelet-certificate-authority
	KubeletAddressTypes      []string   // --kubelet-preferred-address-types
	ProxyClientCertificate   string     // --proxy-client-cert-file
	ProxyClientKey           string     // --proxy-client-key-file
	// KubeletDial connects to kubelets, pods, webhooks and aggregated servers; nil is an ordinary dialer. For tests.
	KubeletDial func(ctx context.Context, network, address string) (net.Conn, error)

	// AuditLog gets a line for every request: --audit-log-path. nil is no audit log.
	AuditLog io.Writer

	// AllowAll makes everybody a member of system:masters: for tests of other parts.
	AllowAll       bool
	Authentication Authentication
	// AuthorizationModes are asked in order: Node, RBAC, AlwaysAllow, AlwaysDeny.
	AuthorizationModes []string // --authorization-mode
	EnableAdmission    []string // --enable-admission-plugins
	DisableAdmission   []string // --disable-admission-plugins
	// How long pods stay on a dead node unless they say otherwise; nil means 300 s.
	NotReadyTolerationSeconds    *int64 // --default-not-ready-toleration-seconds
	UnreachableTolerationSeconds *int64 // --default-unreachable-toleration-seconds
	// Bare leaves out admission and the objects that every cluster has: an empty
	// API for tests that count what is there.
	Bare bool

	ServiceCIDR   netip.Prefix // --service-cluster-ip-range
	FirstNodePort uint32       // --service-node-port-range
	LastNodePort  uint32
	Times         Times
}

// Authentication says how users are known.
type Authentication struct {
	ClientCAFile    string // --client-ca-file
	Anonymous       bool   // --anonymous-auth
	BootstrapTokens bool   // --enable-bootstrap-token-auth

	RequestHeaderCAFile         string   // --requestheader-client-ca-file
	RequestHeaderAllowedNames   []string // --requestheader-allowed-names
	RequestHeaderUsername       []string // --requestheader-username-headers
	RequestHeaderGroup          []string // --requestheader-group-headers
	RequestHeaderExtraPrefix    []string // --requestheader-extra-headers-prefix
	ServiceAccountIssuers       []string // --service-account-issuer
	ServiceAccountKeyFiles      []string // --service-account-key-file
	ServiceAccountSigningKey    string   // --service-account-signing-key-file
	ServiceAccountExtendedToken bool     // --service-account-extend-token-expiration
	APIAudiences                []string // --api-audiences
}

// Times are the server's periods; the defaults stand in one file with all others.
type Times struct {
	EventTTL          time.Duration // --event-ttl
	Compaction        time.Duration // --etcd-compaction-interval
	RequestTimeout    time.Duration // --request-timeout
	MinRequestTimeout time.Duration // --min-request-timeout: the least life of a watch
	BookmarkPeriod    time.Duration
	// Shutdown is how long running requests may take after the end was asked for.
	Shutdown time.Duration
}
