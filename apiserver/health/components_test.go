package health

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// at has every connection go to a server of the test's, except to the addresses that nobody listens at.
func at(s *httptest.Server, dead ...string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		for _, d := range dead {
			if d == address {
				return nil, errors.New("dial tcp " + address + ": connect: connection refused")
			}
		}
		return (&net.Dialer{}).DialContext(ctx, network, s.Listener.Addr().String())
	}
}

func TestComponentsAreAskedHowTheyAre(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" || r.UserAgent() != "kube-probe/1.36" {
			t.Errorf("%s was asked by %q", r.URL.Path, r.UserAgent())
		}
		if r.Host == "127.0.0.1:10259" {
			http.Error(w, "[-]leaderElection failed", http.StatusInternalServerError)
			return
		}
		_, _ = w.Write([]byte("ok"))
	}))
	defer s.Close()
	fine := func(context.Context) error { return nil }
	for _, test := range []struct {
		name  string
		of    Components
		asked string
		want  map[string]corev1.ComponentCondition
	}{
		{"a failed check", Components{Store: fine, Dial: at(s), UserAgent: "kube-probe/1.36"}, "", map[string]corev1.ComponentCondition{
			"controller-manager": {Status: "True", Message: "ok"},
			"etcd-0":             {Status: "True", Message: "ok"},
			"scheduler":          {Status: "False", Message: "HTTP probe failed with statuscode: 500"}}},
		{"nobody listens", Components{Store: fine, Dial: at(s, "127.0.0.1:10257")}, "controller-manager", map[string]corev1.ComponentCondition{
			"controller-manager": {Status: "False", Message: `Get "https://127.0.0.1:10257/healthz": dial tcp 127.0.0.1:10257: connect: connection refused`}}},
		{"the store is away", Components{Store: func(context.Context) error { return errors.New("no leader") }, Dial: at(s), UserAgent: "kube-probe/1.36"}, "etcd-0", map[string]corev1.ComponentCondition{
			"etcd-0": {Status: "False", Error: "no leader"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			found, err := test.of.Read(t.Context(), test.asked)
			if err != nil || len(found) != len(test.want) {
				t.Fatalf("%v, %v", found, err)
			}
			for _, obj := range found {
				c := obj.(*corev1.ComponentStatus)
				want := test.want[c.Name]
				want.Type = corev1.ComponentHealthy
				if len(c.Conditions) != 1 || c.Conditions[0] != want {
					t.Errorf("%s: %+v, want %+v", c.Name, c.Conditions, want)
				}
			}
		})
	}
	if _, err := (&Components{}).Read(t.Context(), "kubelet"); err == nil || err.Error() != `componentstatus "kubelet" not found` {
		t.Errorf("a component that there is not: %v", err)
	}
}
