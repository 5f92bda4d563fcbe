package aggregation

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"orrery/apiserver/auth"
	"orrery/apiserver/backend"
	"orrery/apiserver/kinds"
	"orrery/apiserver/registry"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

const (
	// checkAgain is how soon a server that is away is asked again; one that is there, less often.
	checkAgain    = 2 * time.Second
	checkNextTime = 30 * time.Second
	// checkTimeout is how long a server may take to answer.
	checkTimeout = 5 * time.Second
	maxDiscovery = 4 << 20 // bytes
)

var resource = schema.GroupResource{Group: apiregistrationv1.GroupName, Resource: "apiservices"}

// Aggregator follows the APIServices: it knows which servers are there, and
// keeps those of our own groups in being.
//
// Upstream: staging/src/k8s.io/kube-aggregator/pkg/controllers/status/remote, AvailableConditionController, and
// controllers/autoregister, AutoRegisterController.
type Aggregator struct {
	table    *kinds.Table
	registry *registry.Registry
	pool     *backend.Pool
	log      *slog.Logger
	settled  func() bool
	routes   atomic.Pointer[map[string]*remote]
}

// remote is one group and version that another server serves.
type remote struct {
	target    backend.Target
	available bool
	rows      []*kinds.Kind
}

// New returns an aggregator, which routes nothing before Run. settled tells that
// all custom resources are in the table: before, none counts as gone.
func New(table *kinds.Table, r *registry.Registry, pool *backend.Pool, settled func() bool, log *slog.Logger) *Aggregator {
	return &Aggregator{table: table, registry: r, pool: pool, settled: settled, log: log}
}

// Run follows APIServices and the table of kinds until ctx ends.
func (a *Aggregator) Run(ctx context.Context) error {
	res := a.registry.For(a.table.Stored(resource))
	for ctx.Err() == nil {
		w, _, err := res.Watch(ctx, registry.WatchOptions{Initial: true, After: -1})
		for err == nil {
			changed := a.table.Changed()
			if err := a.register(ctx); err != nil && ctx.Err() == nil {
				a.log.Warn("registering our own APIServices", "err", err)
			}
			again := a.sync(ctx)
			err = a.wait(ctx, w, changed, again)
		}
		select {
		case <-ctx.Done():
		case <-time.After(checkAgain):
		}
	}
	a.pool.Close()
	return nil
}

// wait returns nil when there is something to do.
func (a *Aggregator) wait(ctx context.Context, w *registry.Watcher, changed <-chan struct{}, again time.Duration) error {
	timer := time.NewTimer(again)
	defer timer.Stop()
	for {
		events, wake, err := w.Take()
		if err != nil || len(events) > 0 {
			return err
		}
		select {
		case <-wake:
			continue
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		return nil
	}
}

// sync asks every other server whether it is there. It returns when to do so again.
func (a *Aggregator) sync(ctx context.Context) time.Duration {
	all, err := a.registry.List(ctx, resource, "", nil)
	if err != nil {
		return checkAgain
	}
	before, next, again := a.routes.Load(), map[string]*remote{}, checkNextTime
	var rows []*kinds.Kind
	for _, obj := range all {
		service, ok := obj.(*apiregistrationv1.APIService)
		if !ok || service.Spec.Service == nil {
			continue
		}
		r := &remote{target: targetOf(service)}
		c := a.check(ctx, service, r)
		r.available = c.Status == apiregistrationv1.ConditionTrue
		if !r.available {
			again = checkAgain
			if before != nil && (*before)[service.Name] != nil {
				r.rows = (*before)[service.Name].rows
			}
		}
		next[service.Name] = r
		rows = append(rows, r.rows...)
		if err := a.writeCondition(ctx, service, c); err != nil && ctx.Err() == nil {
			a.log.Warn("writing the status of an APIService", "key", service.Name, "err", err)
		}
	}
	a.routes.Store(&next)
	a.table.SetRemote(rows)
	return again
}

func targetOf(s *apiregistrationv1.APIService) backend.Target {
	t := backend.Target{Namespace: s.Spec.Service.Namespace, Name: s.Spec.Service.Name, Port: 443, CABundle: string(s.Spec.CABundle), Insecure: s.Spec.InsecureSkipTLSVerify}
	if s.Spec.Service.Port != nil {
		t.Port = *s.Spec.Service.Port
	}
	return t
}

// check asks one server what it serves, after looking at its Service.
func (a *Aggregator) check(ctx context.Context, s *apiregistrationv1.APIService, r *remote) apiregistrationv1.APIServiceCondition {
	c := func(status apiregistrationv1.ConditionStatus, reason, format string, args ...any) apiregistrationv1.APIServiceCondition {
		return apiregistrationv1.APIServiceCondition{Type: apiregistrationv1.Available, Status: status, LastTransitionTime: metav1.Now(), Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	const no = apiregistrationv1.ConditionFalse
	t := r.target
	obj, err := a.registry.Get(ctx, schema.GroupResource{Resource: "services"}, t.Namespace, t.Name)
	if apierrors.IsNotFound(err) {
		return c(no, "ServiceNotFound", "service/%s in %q is not present", t.Name, t.Namespace)
	}
	if err != nil {
		return c(apiregistrationv1.ConditionUnknown, "ServiceAccessError", "service/%s in %q cannot be checked due to: %v", t.Name, t.Namespace, err)
	}
	if service, ok := obj.(*corev1.Service); ok && service.Spec.Type == corev1.ServiceTypeClusterIP {
		port := portOf(service, t.Port)
		if port == nil {
			return c(no, "ServicePortError", "service/%s in %q is not listening on port %d", t.Name, t.Namespace, t.Port)
		}
		slices, err := a.registry.List(ctx, schema.GroupResource{Group: "discovery.k8s.io", Resource: "endpointslices"}, t.Namespace,
			labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: t.Name}))
		switch {
		case err != nil:
			return c(apiregistrationv1.ConditionUnknown, "EndpointsAccessError", "service/%s in %q cannot be checked due to: %v", t.Name, t.Namespace, err)
		case len(slices) == 0:
			return c(no, "EndpointsNotFound", "cannot find endpointslices for service/%s in %q", t.Name, t.Namespace)
		case !hasEndpoint(slices, port.Name):
			return c(no, "MissingEndpoints", "endpointslices for service/%s in %q have no addresses with port name %q", t.Name, t.Namespace, port.Name)
		}
	}
	if r.rows, err = a.discover(ctx, s, t); err != nil {
		return c(no, "FailedDiscoveryCheck", "%v", err)
	}
	return c(apiregistrationv1.ConditionTrue, "Passed", "all checks passed")
}

func portOf(s *corev1.Service, port int32) *corev1.ServicePort {
	for i := range s.Spec.Ports {
		if s.Spec.Ports[i].Port == port {
			return &s.Spec.Ports[i]
		}
	}
	return nil
}

func hasEndpoint(slices []runtime.Object, port string) bool {
	for _, obj := range slices {
		s, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok {
			continue
		}
		for _, p := range s.Ports {
			for _, e := range s.Endpoints {
				if (p.Name == nil && port == "" || p.Name != nil && *p.Name == port) && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
					return true
				}
			}
		}
	}
	return false
}

// discover reads the list of what a server has in a group and version.
func (a *Aggregator) discover(ctx context.Context, s *apiregistrationv1.APIService, t backend.Target) ([]*kinds.Kind, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	transport, err := a.pool.Transport(t)
	if err != nil {
		return nil, err
	}
	url := "https://" + t.Host() + "/apis/" + s.Spec.Group + "/" + s.Spec.Version
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	setUser(req.Header, &auth.UserInfo{Name: "system:kube-aggregator", Groups: []string{"system:masters"}})
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("failing or missing response from %v: %w", url, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, fmt.Errorf("failing or missing response from %v: bad status from %v: %d", url, url, resp.StatusCode)
	}
	var list metav1.APIResourceList
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxDiscovery)).Decode(&list); err != nil {
		return nil, fmt.Errorf("failing or missing response from %v: %w", url, err)
	}
	return rowsOf(s.Spec.Group, s.Spec.Version, list.APIResources), nil
}

// rowsOf shows another server's resources as rows for discovery.
func rowsOf(group, version string, list []metav1.APIResource) []*kinds.Kind {
	var rows []*kinds.Kind
	byName := map[string]*kinds.Kind{}
	for _, r := range list {
		if strings.Contains(r.Name, "/") {
			continue
		}
		k := &kinds.Kind{Group: group, Version: version, Kind: r.Kind, Resource: r.Name, Singular: r.SingularName, ShortNames: r.ShortNames,
			Categories: r.Categories, Namespaced: r.Namespaced, Verbs: r.Verbs, Remote: true}
		byName[r.Name] = k
		rows = append(rows, k)
	}
	for _, r := range list {
		if parent, sub, ok := strings.Cut(r.Name, "/"); ok && byName[parent] != nil {
			byName[parent].Subresources = append(byName[parent].Subresources, kinds.Subresource{Name: sub, Verbs: r.Verbs,
				Kind: schema.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}})
		}
	}
	return rows
}

func (a *Aggregator) writeCondition(ctx context.Context, s *apiregistrationv1.APIService, c apiregistrationv1.APIServiceCondition) error {
	set := func(s *apiregistrationv1.APIService) {
		for i := range s.Status.Conditions {
			if old := &s.Status.Conditions[i]; old.Type == c.Type {
				if old.Status == c.Status {
					c.LastTransitionTime = old.LastTransitionTime
				}
				*old = c
				return
			}
		}
		s.Status.Conditions = append(s.Status.Conditions, c)
	}
	after := s.DeepCopy()
	set(after)
	if apiequality.Semantic.DeepEqual(after.Status, s.Status) {
		return nil
	}
	_, err := a.registry.Update(ctx, resource, "", s.Name, "status", func(obj runtime.Object) error {
		set(obj.(*apiregistrationv1.APIService))
		return nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
