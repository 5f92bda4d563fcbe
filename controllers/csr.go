package controllers

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/client"
	"orrery/client/timing"
)

type csrRequest = certificatesv1.CertificateSigningRequest

func csrHas(csr *csrRequest, t certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(csr.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == t })
}

func parseCSR(raw []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	return req, req.CheckSignature()
}

// The approver of kubelets' client certificates.
//
// Watches: CertificateSigningRequests.
// Wants: a decision on each request for a kubelet's client certificate.
// Does: approves it if the requester may create
// certificatesigningrequests/nodeclient, or .../selfnodeclient for its own name.
// Upstream: pkg/controller/certificates/approver/sarapprove.go.
func startCSRApproving(e *env) (func(context.Context) error, error) {
	csrs, api := watching[*csrRequest](e), client.For[*csrRequest](e.client)
	reviews := client.For[*authorizationv1.SubjectAccessReview](e.client)
	c := client.NewController("certificatesigningrequest-approving-controller", func(ctx context.Context, name string) (client.Result, error) {
		csr, ok := csrs.GetKey(name)
		if !ok || len(csr.Status.Certificate) > 0 || csrHas(csr, certificatesv1.CertificateApproved) || csrHas(csr, certificatesv1.CertificateDenied) {
			return client.Result{}, nil
		}
		req, err := parseCSR(csr.Spec.Request)
		if err != nil {
			return client.Result{}, fmt.Errorf("unable to parse csr %q: %w", name, err)
		}
		var tried []string
		for _, r := range recognise(csr, req) {
			tried = append(tried, r.subresource)
			allowed, err := mayCreate(ctx, reviews, csr, r.subresource)
			if err != nil {
				return client.Result{}, err
			}
			if !allowed {
				continue
			}
			csr = csr.DeepCopy()
			csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
				Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: r.message,
				LastUpdateTime: metav1.Now(),
			})
			_, err = api.UpdateSubresource(ctx, csr, "approval")
			return client.Result{}, err
		}
		if len(tried) > 0 { // the right may yet be granted
			return client.Result{}, fmt.Errorf("recognized csr %q as %v but subject access review was not approved", name, tried)
		}
		return client.Result{}, nil
	})
	csrs.AddHandler(client.On[*csrRequest](c))
	return c.Run, nil
}

type recognised struct{ subresource, message string }

// recognise says as what a request could be approved.
func recognise(csr *csrRequest, req *x509.CertificateRequest) []recognised {
	if csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName || kubeletClientProblem(csr, req) != nil {
		return nil
	}
	node := recognised{"nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."}
	if csr.Spec.Username == req.Subject.CommonName {
		return []recognised{{"selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."}, node}
	}
	return []recognised{node}
}

func mayCreate(ctx context.Context, reviews *client.Resource[*authorizationv1.SubjectAccessReview], csr *csrRequest, subresource string) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range csr.Spec.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	review, err := reviews.Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: csr.Spec.Username, UID: csr.Spec.UID, Groups: csr.Spec.Groups, Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Group: "certificates.k8s.io", Resource: "certificatesigningrequests", Verb: "create", Subresource: subresource, Version: "*",
		},
	}})
	if err != nil {
		return false, err
	}
	return review.Status.Allowed, nil
}

// onlyUsages says whether a request asks for a wanted usage and nothing but it
// and the two that any key needs.
func onlyUsages(csr *csrRequest, want certificatesv1.KeyUsage) bool {
	return slices.Contains(csr.Spec.Usages, want) && !slices.ContainsFunc(csr.Spec.Usages, func(u certificatesv1.KeyUsage) bool {
		return u != want && u != certificatesv1.UsageDigitalSignature && u != certificatesv1.UsageKeyEncipherment
	})
}

// kubeletClientProblem says why a request is not one for a kubelet's client
// certificate.
//
// Upstream: pkg/apis/certificates/helpers.go, ValidateKubeletClientCSR.
func kubeletClientProblem(csr *csrRequest, req *x509.CertificateRequest) error {
	switch {
	case !slices.Equal(req.Subject.Organization, []string{"system:nodes"}):
		return errors.New("subject organization is not system:nodes")
	case len(req.DNSNames)+len(req.IPAddresses) > 0:
		return errors.New("DNS and IP subjectAltNames are not allowed")
	case len(req.EmailAddresses)+len(req.URIs) > 0:
		return errors.New("email and URI subjectAltNames are not allowed")
	case !strings.HasPrefix(req.Subject.CommonName, "system:node:"):
		return errors.New("subject common name does not begin with system:node:")
	case !onlyUsages(csr, certificatesv1.UsageClientAuth) || !slices.Contains(csr.Spec.Usages, certificatesv1.UsageDigitalSignature):
		return errors.New("usages did not match [digital signature client auth] or [digital signature key encipherment client auth]")
	}
	return nil
}

// kubeletServingProblem is the same for a kubelet's server certificate.
//
// Upstream: pkg/apis/certificates/helpers.go, ValidateKubeletServingCSR.
func kubeletServingProblem(csr *csrRequest, req *x509.CertificateRequest) error {
	switch {
	case !slices.Equal(req.Subject.Organization, []string{"system:nodes"}):
		return errors.New("subject organization is not system:nodes")
	case len(req.DNSNames)+len(req.IPAddresses) == 0:
		return errors.New("DNS or IP subjectAltName is required")
	case len(req.EmailAddresses)+len(req.URIs) > 0:
		return errors.New("email and URI subjectAltNames are not allowed")
	case !strings.HasPrefix(req.Subject.CommonName, "system:node:") || csr.Spec.Username != req.Subject.CommonName:
		return errors.New("subject common name does not begin with system:node: or is not the requester's")
	case !onlyUsages(csr, certificatesv1.UsageServerAuth) || !slices.Contains(csr.Spec.Usages, certificatesv1.UsageDigitalSignature):
		return errors.New("usages did not match [digital signature server auth] or [digital signature key encipherment server auth]")
	}
	return nil
}

// signerProblem says why a signer would not sign a request, or that the signer is
// not one of ours.
func signerProblem(csr *csrRequest, req *x509.CertificateRequest) (ours bool, problem error) {
	switch csr.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientSignerName:
		if !onlyUsages(csr, certificatesv1.UsageClientAuth) {
			return true, errors.New("invalid usage for client certificate")
		}
		return true, nil
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		return true, kubeletClientProblem(csr, req)
	case certificatesv1.KubeletServingSignerName:
		return true, kubeletServingProblem(csr, req)
	case "kubernetes.io/legacy-unknown":
		return true, nil
	}
	return false, nil
}

// The signer.
//
// Watches: CertificateSigningRequests.
// Wants: a certificate in each approved request of the four signers kubernetes.io/.
// Does: signs with the cluster's CA, or marks the request Failed.
// Upstream: pkg/controller/certificates/signer/signer.go.
// Left out: reading a rotated CA again while running.
func startCSRSigning(e *env) (func(context.Context) error, error) {
	if e.cfg.ClusterSigningCert == "" || e.cfg.ClusterSigningKey == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(e.cfg.ClusterSigningCert, e.cfg.ClusterSigningKey)
	if err != nil {
		return nil, fmt.Errorf("the CA that signs: %w", err)
	}
	csrs, api := watching[*csrRequest](e), client.For[*csrRequest](e.client)
	c := client.NewController("certificatesigningrequest-signing-controller", func(ctx context.Context, name string) (client.Result, error) {
		csr, ok := csrs.GetKey(name)
		if !ok || len(csr.Status.Certificate) > 0 || csrHas(csr, certificatesv1.CertificateFailed) ||
			!csrHas(csr, certificatesv1.CertificateApproved) || csrHas(csr, certificatesv1.CertificateDenied) {
			return client.Result{}, nil
		}
		req, err := parseCSR(csr.Spec.Request)
		if err != nil {
			return client.Result{}, fmt.Errorf("unable to parse csr %q: %w", name, err)
		}
		ours, problem := signerProblem(csr, req)
		if !ours {
			return client.Result{}, nil
		}
		csr = csr.DeepCopy()
		if problem != nil {
			csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
				Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure",
				Message: problem.Error(), LastUpdateTime: metav1.Now(),
			})
		} else if csr.Status.Certificate, err = sign(csr, req, pair, e.cfg.ClusterSigningDuration, time.Now()); err != nil {
			return client.Result{}, fmt.Errorf("error auto signing csr: %w", err)
		}
		_, err = api.UpdateStatus(ctx, csr)
		return client.Result{}, err
	})
	csrs.AddHandler(client.On[*csrRequest](c))
	return c.Run, nil
}

var (
	keyUsages = map[certificatesv1.KeyUsage]x509.KeyUsage{
		certificatesv1.UsageSigning: x509.KeyUsageDigitalSignature, certificatesv1.UsageDigitalSignature: x509.KeyUsageDigitalSignature,
		certificatesv1.UsageContentCommitment: x509.KeyUsageContentCommitment, certificatesv1.UsageKeyEncipherment: x509.KeyUsageKeyEncipherment,
		certificatesv1.UsageDataEncipherment: x509.KeyUsageDataEncipherment, certificatesv1.UsageKeyAgreement: x509.KeyUsageKeyAgreement,
		certificatesv1.UsageCertSign: x509.KeyUsageCertSign, certificatesv1.UsageCRLSign: x509.KeyUsageCRLSign,
		certificatesv1.UsageEncipherOnly: x509.KeyUsageEncipherOnly, certificatesv1.UsageDecipherOnly: x509.KeyUsageDecipherOnly,
	}
	extKeyUsages = map[certificatesv1.KeyUsage]x509.ExtKeyUsage{
		certificatesv1.UsageAny: x509.ExtKeyUsageAny, certificatesv1.UsageServerAuth: x509.ExtKeyUsageServerAuth,
		certificatesv1.UsageClientAuth: x509.ExtKeyUsageClientAuth, certificatesv1.UsageCodeSigning: x509.ExtKeyUsageCodeSigning,
		certificatesv1.UsageEmailProtection: x509.ExtKeyUsageEmailProtection, certificatesv1.UsageSMIME: x509.ExtKeyUsageEmailProtection,
		certificatesv1.UsageTimestamping: x509.ExtKeyUsageTimeStamping, certificatesv1.UsageOCSPSigning: x509.ExtKeyUsageOCSPSigning,
	}
)

// sign makes the certificate (PEM). Its life begins five minutes back, for clocks
// that are slow, and ends no later than the CA's.
//
// Upstream: pkg/controller/certificates/authority, CertificateAuthority.Sign.
func sign(csr *csrRequest, req *x509.CertificateRequest, ca tls.Certificate, longest time.Duration, now time.Time) ([]byte, error) {
	const backdate, least = 5 * time.Minute, 10 * time.Minute
	life := longest
	if s := csr.Spec.ExpirationSeconds; s != nil {
		life = min(longest, max(least, time.Duration(*s)*time.Second))
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: req.Subject, DNSNames: req.DNSNames, IPAddresses: req.IPAddresses,
		EmailAddresses: req.EmailAddresses, URIs: req.URIs, BasicConstraintsValid: true,
		NotBefore: now.Add(-backdate), NotAfter: now.Add(life - backdate),
	}
	if life < 8*time.Hour { // short lives are given in full
		template.NotAfter = now.Add(life)
	}
	if ca.Leaf.NotAfter.Before(template.NotAfter) {
		template.NotAfter = ca.Leaf.NotAfter
	}
	for _, u := range csr.Spec.Usages {
		if x, ok := extKeyUsages[u]; ok {
			template.ExtKeyUsage = append(template.ExtKeyUsage, x)
		} else if k, ok := keyUsages[u]; ok {
			template.KeyUsage |= k
		} else {
			return nil, fmt.Errorf("unrecognized usage %q", u)
		}
	}
	slices.Sort(template.ExtKeyUsage)
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, req.PublicKey, ca.PrivateKey.(crypto.Signer))
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// The cleaner of requests.
//
// Watches: CertificateSigningRequests.
// Wants: no request older than an hour once it is decided, or a day if not.
// Does: looks each hour and deletes.
// Upstream: pkg/controller/certificates/cleaner/cleaner.go.
func startCSRCleaner(e *env) (func(context.Context) error, error) {
	csrs, api := watching[*csrRequest](e), client.For[*csrRequest](e.client)
	return func(ctx context.Context) error {
		return every(ctx, time.Hour, func(ctx context.Context) {
			for _, csr := range csrs.List() {
				if !csrIsOld(csr, time.Now()) {
					continue
				}
				if err := api.Delete(ctx, "", csr.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
					logFailure("certificatesigningrequest-cleaner-controller", csr.Name, err)
				}
			}
		})
	}, nil
}

// csrIsOld decides about one request.
func csrIsOld(csr *csrRequest, now time.Time) bool {
	if block, _ := pem.Decode(csr.Status.Certificate); block != nil {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && cert.NotAfter.Before(now) {
			return true
		}
	}
	decided := false
	for _, c := range csr.Status.Conditions {
		decided = true
		if !c.LastUpdateTime.IsZero() && now.Sub(c.LastUpdateTime.Time) > timing.CSRApprovedExpiry {
			if c.Type != certificatesv1.CertificateApproved || len(csr.Status.Certificate) > 0 {
				return true
			}
		}
	}
	return (!decided || len(csr.Status.Certificate) == 0) && now.Sub(csr.CreationTimestamp.Time) > timing.CSRPendingExpiry
}
