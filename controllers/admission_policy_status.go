package controllers

import (
	"context"
	"encoding/json"

	admissionv1 "k8s.io/api/admissionregistration/v1"

	"orrery/client"
)

// The ValidatingAdmissionPolicy status controller.
//
// Watches: ValidatingAdmissionPolicies.
// Wants: the status of each to say which generation was looked at.
// Does: applies status.observedGeneration.
// Upstream: pkg/controller/validatingadmissionpolicystatus/controller.go.
// Left out: status.typeChecking, which warns of fields that the schemas of the matched kinds do not have.
func startAdmissionPolicyStatus(e *env) (func(context.Context) error, error) {
	policies, api := watching[*admissionv1.ValidatingAdmissionPolicy](e), client.For[*admissionv1.ValidatingAdmissionPolicy](e.client)
	c := client.NewController("validatingadmissionpolicy-status-controller", func(ctx context.Context, name string) (client.Result, error) {
		policy, ok := policies.GetKey(name)
		if !ok || policy.Generation <= policy.Status.ObservedGeneration {
			return client.Result{}, nil
		}
		body, err := json.Marshal(map[string]any{
			"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": map[string]any{"name": name},
			"status": map[string]any{"observedGeneration": policy.Generation},
		})
		if err != nil {
			return client.Result{}, err
		}
		_, err = api.Apply(ctx, "", name, "validatingadmissionpolicy-status", true, body, "status")
		return client.Result{}, err
	})
	policies.AddHandler(client.Handler[*admissionv1.ValidatingAdmissionPolicy]{
		Add:    func(p *admissionv1.ValidatingAdmissionPolicy) { c.Enqueue(p) },
		Update: func(_, p *admissionv1.ValidatingAdmissionPolicy) { c.Enqueue(p) },
	})
	return c.Run, nil
}
