package admission

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"strings"

	"orrery/apiserver/auth"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// maySign asks whether the user may do verb (approve, sign) for a signer, by its name or for its whole domain.
//
// Upstream: plugin/pkg/admission/certificates/util.go, IsAuthorizedForSignerName.
func maySign(ctx context.Context, z auth.Authorizer, user *auth.UserInfo, verb, signer string) bool {
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		decision, _, err := z.Authorize(ctx, auth.Attributes{User: user, Verb: verb, IsResource: true,
			APIGroup: "certificates.k8s.io", APIVersion: "*", Resource: "signers", Name: name})
		if err == nil && decision == auth.Allow {
			return true
		}
	}
	return false
}

// certificateApproval lets only those approve a request who may do so for its signer.
//
// Upstream: plugin/pkg/admission/certificates/approval/admission.go, Plugin.
type certificateApproval struct {
	Base
	authorizer auth.Authorizer
}

func (certificateApproval) Name() string { return "CertificateApproval" }

func (p certificateApproval) Validate(ctx context.Context, a *Attributes) error {
	csr, ok := a.Old.(*certificatesv1.CertificateSigningRequest)
	if !ok || p.authorizer == nil || a.Operation != Update || a.Subresource != "approval" {
		return nil
	}
	if !maySign(ctx, p.authorizer, a.User, "approve", csr.Spec.SignerName) {
		return forbidden(a, "user not permitted to approve requests with signerName %q", csr.Spec.SignerName)
	}
	return nil
}

// certificateSigning lets only the signer issue certificates in its name.
//
// Upstream: plugin/pkg/admission/certificates/signing/admission.go, Plugin.
type certificateSigning struct {
	Base
	authorizer auth.Authorizer
}

func (certificateSigning) Name() string { return "CertificateSigning" }

func (p certificateSigning) Validate(ctx context.Context, a *Attributes) error {
	old, ok := a.Old.(*certificatesv1.CertificateSigningRequest)
	csr, ok2 := a.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok || !ok2 || p.authorizer == nil || a.Operation != Update || a.Subresource != "status" {
		return nil
	}
	if equality.Semantic.DeepEqual(csr.Status.Certificate, old.Status.Certificate) && equality.Semantic.DeepEqual(csr.Status.Conditions, old.Status.Conditions) {
		return nil
	}
	if !maySign(ctx, p.authorizer, a.User, "sign", old.Spec.SignerName) {
		return forbidden(a, "user not permitted to sign requests with signerName %q", old.Spec.SignerName)
	}
	return nil
}

// certificateSubjectRestriction refuses client certificates for system:masters: they could not be taken back.
//
// Upstream: plugin/pkg/admission/certificates/subjectrestriction/admission.go, Plugin.
type certificateSubjectRestriction struct{ Base }

func (certificateSubjectRestriction) Name() string { return "CertificateSubjectRestriction" }

func (certificateSubjectRestriction) Validate(_ context.Context, a *Attributes) error {
	csr, ok := a.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok || !a.is("certificates.k8s.io", "CertificateSigningRequest", Create) || csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	request, err := parseRequest(csr.Spec.Request)
	if err != nil {
		return forbidden(a, "failed to parse CSR: %w", err)
	}
	if slices.Contains(request.Subject.Organization, "system:masters") {
		return forbidden(a, "use of %s signer with system:masters group is not allowed", certificatesv1.KubeAPIServerClientSignerName)
	}
	return nil
}

// parseRequest reads a certificate request in PEM.
func parseRequest(raw []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}
