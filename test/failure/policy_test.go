package failure

import (
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/client"
)

func TestAPolicySaysWhichGenerationWasLookedAt(t *testing.T) {
	inCluster(t, func(w *world) {
		policies := client.For[*admissionv1.ValidatingAdmissionPolicy](w.client)
		p := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "demo"}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
				Operations: []admissionv1.OperationType{admissionv1.Create}, Rule: admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}}}}},
			Validations: []admissionv1.Validation{{Expression: "true"}}}}
		_, err := policies.Create(w.ctx, p)
		w.must(err)
		for _, generation := range []int64{1, 2} {
			time.Sleep(time.Second)
			p, err = policies.Get(w.ctx, "", "demo")
			w.must(err)
			if p.Generation != generation || p.Status.ObservedGeneration != generation || p.Status.TypeChecking != nil {
				t.Errorf("generation %d, status %+v; want %d", p.Generation, p.Status, generation)
			}
			p.Spec.Validations[0].Message = "never"
			_, err = policies.Update(w.ctx, p)
			w.must(err)
		}
	})
}
