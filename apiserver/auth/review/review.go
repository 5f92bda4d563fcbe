package review

import (
	"context"
	"errors"
	"net/http"

	"orrery/apiserver/auth"
	"orrery/apiserver/auth/rbac"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Create answers one POST; body has the version of the path. It is what rest.Creater is.
type Create = func(ctx context.Context, a *auth.Attributes, body runtime.Object) (runtime.Object, error)

// Reviews are the answers.
type Reviews struct {
	Authorizer auth.Authorizer
	// Rules lists the rules of a user; nil when RBAC is off.
	Rules *rbac.Authorizer
	// Tokens authenticates the tokens of TokenReviews.
	Tokens auth.TokenAuthenticator
	// Audiences are the API server's own.
	Audiences []string
	// Issuer signs tokens for service accounts; nil when no key was given.
	Issuer *auth.TokenIssuer
}

// Handlers returns all of them, by resource as rest.Hooks wants them.
func (r *Reviews) Handlers() map[string]Create {
	return map[string]Create{
		"tokenreviews.authentication.k8s.io":             r.token,
		"selfsubjectreviews.authentication.k8s.io":       r.self,
		"subjectaccessreviews.authorization.k8s.io":      r.subjectAccess,
		"localsubjectaccessreviews.authorization.k8s.io": r.localSubjectAccess,
		"selfsubjectaccessreviews.authorization.k8s.io":  r.selfAccess,
		"selfsubjectrulesreviews.authorization.k8s.io":   r.selfRules,
		"serviceaccounts/token":                          r.serviceAccountToken,
	}
}

// token says whose token it is.
//
// Upstream: pkg/registry/authentication/tokenreview/storage.go, REST.Create.
func (r *Reviews) token(ctx context.Context, _ *auth.Attributes, body runtime.Object) (runtime.Object, error) {
	review := body.(*authenticationv1.TokenReview).DeepCopy()
	if review.Spec.Token == "" {
		return nil, apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	audiences := review.Spec.Audiences
	if len(audiences) == 0 {
		audiences = r.Audiences
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	req.Header.Set("Authorization", "Bearer "+review.Spec.Token)
	user, ok, err := auth.Chain{Authenticators: []auth.Authenticator{auth.Bearer{Tokens: withAudiences{r.Tokens, audiences}}}}.Authenticate(req)
	review.Status = authenticationv1.TokenReviewStatus{Authenticated: ok}
	if err != nil {
		review.Status.Error = err.Error()
	}
	if ok {
		review.Status.User = user.API()
		review.Status.Audiences = audiences
	}
	return review, nil
}

// withAudiences authenticates for the audiences that the review names.
type withAudiences struct {
	auth.TokenAuthenticator
	audiences []string
}

// AuthenticateToken implements auth.TokenAuthenticator.
func (w withAudiences) AuthenticateToken(ctx context.Context, token string, _ []string) (*auth.UserInfo, bool, error) {
	return w.TokenAuthenticator.AuthenticateToken(ctx, token, w.audiences)
}

// self is kubectl auth whoami.
//
// Upstream: pkg/registry/authentication/selfsubjectreview/rest.go, REST.Create.
func (r *Reviews) self(ctx context.Context, _ *auth.Attributes, body runtime.Object) (runtime.Object, error) {
	review := body.(*authenticationv1.SelfSubjectReview).DeepCopy()
	review.Status.UserInfo = auth.UserFrom(ctx).API()
	return review, nil
}

// subjectAccess asks for another user, as a kubelet does for its own clients.
//
// Upstream: pkg/registry/authorization/subjectaccessreview/rest.go, REST.Create.
func (r *Reviews) subjectAccess(ctx context.Context, _ *auth.Attributes, body runtime.Object) (runtime.Object, error) {
	review := body.(*authorizationv1.SubjectAccessReview).DeepCopy()
	errs := validate(&review.Spec, true)
	errs = append(errs, noMetadata(review.ObjectMeta, "must be empty")...)
	status, err := r.judge(ctx, &review.Spec, errs)
	review.Status = status
	return review, err
}

// localSubjectAccess is for those who may ask about one namespace only.
//
// Upstream: pkg/registry/authorization/localsubjectaccessreview/rest.go, REST.Create.
func (r *Reviews) localSubjectAccess(ctx context.Context, a *auth.Attributes, body runtime.Object) (runtime.Object, error) {
	review := body.(*authorizationv1.LocalSubjectAccessReview).DeepCopy()
	if review.Namespace == "" {
		review.Namespace = a.Namespace
	}
	if review.Namespace != a.Namespace {
		return nil, apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	errs := validate(&review.Spec, true)
	meta := review.ObjectMeta
	meta.Namespace = ""
	errs = append(errs, noMetadata(meta, "must be empty except for namespace")...)
	if attrs := review.Spec.ResourceAttributes; attrs != nil && attrs.Namespace != a.Namespace {
		errs = append(errs, field.Invalid(field.NewPath("spec.resourceAttributes.namespace"), attrs.Namespace, "must match metadata.namespace"))
	}
	if non := review.Spec.NonResourceAttributes; non != nil {
		errs = append(errs, field.Invalid(field.NewPath("spec.nonResourceAttributes"), non, "disallowed on this kind of request"))
	}
	status, err := r.judge(ctx, &review.Spec, errs)
	review.Status = status
	return review, err
}

// selfAccess is kubectl auth can-i.
//
// Upstream: pkg/registry/authorization/selfsubjectaccessreview/rest.go, REST.Create.
func (r *Reviews) selfAccess(ctx context.Context, _ *auth.Attributes, body runtime.Object) (runtime.Object, error) {
	review := body.(*authorizationv1.SelfSubjectAccessReview).DeepCopy()
	user := auth.UserFrom(ctx)
	spec := authorizationv1.SubjectAccessReviewSpec{
		ResourceAttributes: review.Spec.ResourceAttributes, NonResourceAttributes: review.Spec.NonResourceAttributes,
		User: user.Name, UID: user.UID, Groups: user.Groups,
	}
	for key, values := range user.Extra {
		if spec.Extra == nil {
			spec.Extra = map[string]authorizationv1.ExtraValue{}
		}
		spec.Extra[key] = values
	}
	errs := validate(&spec, false)
	errs = append(errs, noMetadata(review.ObjectMeta, "must be empty")...)
	status, err := r.judge(ctx, &spec, errs)
	review.Status = status
	return review, err
}

// judge puts a question to the authorizer, unless errs are found in it.
func (r *Reviews) judge(ctx context.Context, spec *authorizationv1.SubjectAccessReviewSpec, errs field.ErrorList) (authorizationv1.SubjectAccessReviewStatus, error) {
	var status authorizationv1.SubjectAccessReviewStatus
	if len(errs) > 0 {
		return status, invalid(errs)
	}
	attributes, err := attributesOf(spec)
	if err != nil {
		return status, invalid(field.ErrorList{field.Invalid(field.NewPath("spec", "resourceAttributes"), nil, err.Error())})
	}
	decision, reason, err := r.Authorizer.Authorize(ctx, attributes)
	status.Allowed = decision == auth.Allow
	status.Denied = decision == auth.Deny
	status.Reason = reason
	if err != nil {
		status.EvaluationError = err.Error()
	}
	return status, nil
}

// attributesOf brings a question into the authorizer's form.
func attributesOf(spec *authorizationv1.SubjectAccessReviewSpec) (auth.Attributes, error) {
	user := &auth.UserInfo{Name: spec.User, UID: spec.UID, Groups: spec.Groups, Extra: map[string][]string{}}
	for key, values := range spec.Extra {
		user.Extra[key] = values
	}
	if non := spec.NonResourceAttributes; non != nil {
		return auth.Attributes{User: user, Verb: non.Verb, Path: non.Path}, nil
	}
	of := spec.ResourceAttributes
	a := auth.Attributes{
		User: user, Verb: of.Verb, IsResource: true, APIGroup: of.Group, APIVersion: of.Version,
		Resource: of.Resource, Subresource: of.Subresource, Namespace: of.Namespace, Name: of.Name,
	}
	if a.APIVersion == "" {
		a.APIVersion = "*"
	}
	var fieldErr, labelErr error
	if of.FieldSelector != nil {
		a.Fields, fieldErr = fields.ParseSelector(of.FieldSelector.RawSelector)
		for _, requirement := range of.FieldSelector.Requirements {
			if requirement.Operator == "In" && len(requirement.Values) == 1 && fieldErr == nil {
				a.Fields = fields.AndSelectors(a.Fields, fields.OneTermEqualSelector(requirement.Key, requirement.Values[0]))
			}
		}
	}
	if of.LabelSelector != nil && of.LabelSelector.RawSelector != "" {
		a.Labels, labelErr = labels.Parse(of.LabelSelector.RawSelector)
	}
	return a, errors.Join(fieldErr, labelErr)
}

// selfRules is kubectl auth can-i --list.
//
// Upstream: pkg/registry/authorization/selfsubjectrulesreview/rest.go, REST.Create.
func (r *Reviews) selfRules(ctx context.Context, _ *auth.Attributes, body runtime.Object) (runtime.Object, error) {
	review := body.(*authorizationv1.SelfSubjectRulesReview).DeepCopy()
	if review.Spec.Namespace == "" {
		return nil, apierrors.NewBadRequest("no namespace on request")
	}
	review.Status.ResourceRules = []authorizationv1.ResourceRule{}
	review.Status.NonResourceRules = []authorizationv1.NonResourceRule{}
	if r.Rules == nil {
		review.Status.Incomplete = true
		return review, nil
	}
	rules, err := r.Rules.RulesFor(ctx, auth.UserFrom(ctx), review.Spec.Namespace)
	if err != nil {
		review.Status.EvaluationError = err.Error()
		review.Status.Incomplete = true
	}
	for _, rule := range rules {
		addRule(&review.Status, &rule)
	}
	return review, nil
}

// addRule appends a rule in the form of the answer.
func addRule(status *authorizationv1.SubjectRulesReviewStatus, rule *rbacv1.PolicyRule) {
	if len(rule.Resources) > 0 {
		status.ResourceRules = append(status.ResourceRules, authorizationv1.ResourceRule{
			Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames})
	}
	if len(rule.NonResourceURLs) > 0 {
		status.NonResourceRules = append(status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
	}
}

// serviceAccountToken signs a token: kubectl create token, and every pod's volume.
func (r *Reviews) serviceAccountToken(ctx context.Context, a *auth.Attributes, body runtime.Object) (runtime.Object, error) {
	if r.Issuer == nil {
		return nil, apierrors.NewInternalError(errors.New("this server has no key to sign service account tokens"))
	}
	return r.Issuer.Create(ctx, a.Namespace, a.Name, body.(*authenticationv1.TokenRequest))
}

// invalid is the refusal of a question. Upstream has lost its kind by then.
func invalid(errs field.ErrorList) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: authorizationv1.GroupName}, "", errs)
}
