package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// workers are the nodes whose port 80 the ingress controller has.
func workers(t *testing.T) map[string]string {
	t.Helper()
	ips := addresses(t)
	delete(ips, head)
	return ips
}

// answers asks a URL from a node until it gets a status code and a part of the text.
func answers(t *testing.T, node, curl, code string, parts ...string) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		out, err := tryInNode(node, `curl -s --max-time 5 -w '\ncode %{http_code}' `+curl)
		if err != nil {
			return err
		}
		return contains(out, append(parts, "code "+code)...)
	})
}

// The course's way to the application: port 80 of any worker. Without an Ingress
// that port says 404, with one both replicas answer, by turns.
func TestIngress(t *testing.T) {
	need(t)
	must(t, contains(kubectl(t, "apply", "-f", "deploy/ingress.yaml"), "ingressclass.networking.k8s.io/orrery", "daemonset.apps/orrery-ingress"))
	must(t, contains(kubectl(t, "rollout", "status", "-n", "orrery-ingress", "daemonset/orrery-ingress", "--timeout=60s"), "successfully rolled out"))
	kubectl(t, "delete", "ingress", "--all", "--ignore-not-found")
	ips := workers(t)
	for _, ip := range ips {
		answers(t, head, "http://"+ip, "404", "404 page not found")
	}
	must(t, contains(kubectl(t, "apply", "-f", "deploy/demo/app.yaml"), "ingress.networking.k8s.io/hello created"))
	kubectl(t, "rollout", "status", "deployment/hello-world", "--timeout=60s")
	for _, ip := range ips {
		seen := map[string]bool{}
		eventually(t, 20*time.Second, func() error {
			who, err := hostname(head, "http://"+ip+"/")
			if err != nil {
				return err
			}
			if seen[who] = true; len(seen) < 2 {
				return fmt.Errorf("at %s only %v answered", ip, seen)
			}
			return nil
		})
	}
	// kubectl names the class that admission filled in and the addresses of status.
	eventually(t, 20*time.Second, func() error {
		out, err := tryKubectl("get", "ingress", "hello", "--no-headers")
		if err != nil {
			return err
		}
		return contains(out, "orrery", "*", ips[worker2], ips[worker3], "80")
	})
	must(t, contains(kubectl(t, "describe", "ingress", "hello"), "Ingress Class:    orrery", "hello:80 ("))
}

// Hosts and paths lead to different Services, and HTTPS has the certificate of
// the Secret; names without one get the controller's own.
func TestIngressHostsPathsAndCertificates(t *testing.T) {
	need(t)
	crt, key := certificate(t, "shop.example")
	kubectl(t, "create", "secret", "tls", "shop", "--cert="+crt, "--key="+key)
	defer kubectl(t, "delete", "deployment/shop", "service/shop", "ingress/shop", "secret/shop")
	apply(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec: {containers: [{name: c, image: `+podinfo+`}]}
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{name: web, port: 8080, targetPort: 9898}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop}
spec:
  tls: [{hosts: [shop.example], secretName: shop}]
  rules:
  - host: shop.example
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: shop, port: {name: web}}}}]}
  - http: {paths: [{path: /env, pathType: Exact, backend: {service: {name: shop, port: {number: 8080}}}}]}
`)
	kubectl(t, "rollout", "status", "deployment/shop", "--timeout=60s")
	raw, err := os.ReadFile(crt)
	must(t, err)
	inNode(t, head, "cat >/tmp/shop.crt <<'EOF'\n"+string(raw)+"EOF")
	defer inNode(t, head, "rm -f /tmp/shop.crt")
	for _, ip := range workers(t) {
		answers(t, head, "-H 'Host: shop.example' http://"+ip+"/", "200", `"hostname": "shop-`)
		answers(t, head, "http://"+ip+"/env", "200", "HOSTNAME=shop-")
		answers(t, head, "http://"+ip+"/", "200", `"hostname": "hello-world-`)
		answers(t, head, "--cacert /tmp/shop.crt --resolve shop.example:443:"+ip+" https://shop.example/", "200", `"hostname": "shop-`)
		answers(t, head, "--insecure https://"+ip+"/", "200", `"hostname": "hello-world-`)
		must(t, contains(inNode(t, head, "curl -sv --insecure -o /dev/null https://"+ip+"/ 2>&1"), "CN=ORRERY DEFAULT CERT"))
	}
	kubectl(t, "scale", "deployment/shop", "--replicas=0")
	for _, ip := range workers(t) {
		answers(t, head, "-H 'Host: shop.example' http://"+ip+"/", "503", "no available server")
	}
}

// certificate makes files with a certificate for a host that signed itself.
func certificate(t *testing.T, host string) (crt, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	must(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	dir := t.TempDir()
	crt, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	must(t, os.WriteFile(crt, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600))
	return crt, key
}

// While all pods are replaced no request fails: the one that finds its endpoint
// gone is given to another.
func TestIngressDuringARollout(t *testing.T) {
	need(t)
	ip := workers(t)[worker2]
	codes := make(chan string, 1)
	failed := make(chan error, 1)
	go func() {
		out, err := tryInNode(head, `for i in $(seq 100); do curl -s --max-time 5 -o /dev/null -w '%{http_code}\n' http://`+ip+`/; sleep 0.1; done`)
		codes <- out
		failed <- err
	}()
	kubectl(t, "rollout", "restart", "deployment/hello-world")
	kubectl(t, "rollout", "status", "deployment/hello-world", "--timeout=60s")
	out := strings.Fields(<-codes)
	must(t, <-failed)
	for _, code := range out {
		if code != "200" {
			t.Fatalf("codes: %s", strings.Join(out, " "))
		}
	}
}

// The course's promise: the application answers while the control plane is down.
func TestIngressWithoutAControlPlane(t *testing.T) {
	need(t)
	ips := workers(t)
	orrery(t, "node", "stop", head)
	for range 3 {
		for _, ip := range ips {
			if who, err := hostname(worker2, "http://"+ip+"/"); err != nil || !strings.HasPrefix(who, "hello-world-") {
				t.Errorf("without a control plane %s answers %q, %v", ip, who, err)
			}
		}
	}
	orrery(t, "node", "start", head)
	eventually(t, 90*time.Second, is("True", `{.status.conditions[?(@.type=="Ready")].status}`, "node", head))
	// And it follows the API server again.
	kubectl(t, "delete", "ingress", "hello")
	for _, ip := range ips {
		eventually(t, followed, func() error {
			out, err := tryInNode(worker2, "curl -s --max-time 5 http://"+ip+"/")
			if err != nil {
				return err
			}
			return contains(out, "404 page not found")
		})
	}
	kubectl(t, "apply", "-f", "deploy/demo/app.yaml")
	for _, ip := range ips {
		answers(t, worker2, "http://"+ip+"/", "200", `"hostname": "hello-world-`)
	}
}
