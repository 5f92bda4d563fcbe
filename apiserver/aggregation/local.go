package aggregation

import (
	"context"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// managed marks the APIServices that this server makes: at its start, or (true)
// for as long as a CustomResourceDefinition has the group.
const managed = "kube-aggregator.kubernetes.io/automanaged"

// priorities of our own groups, and of their versions, in discovery; custom resources come after them.
//
// Upstream: pkg/controlplane/apiserver/aggregator.go, DefaultGenericAPIServicePriorities, and cmd/kube-apiserver/app/aggregator.go.
var (
	priorities = map[string][2]int32{
		"": {18000, 1}, "apps": {17800, 15}, "events.k8s.io": {17750, 15}, "authentication.k8s.io": {17700, 15}, "authorization.k8s.io": {17600, 15},
		"autoscaling": {17500, 15}, "batch": {17400, 15}, "certificates.k8s.io": {17300, 15}, "networking.k8s.io": {17200, 15}, "policy": {17100, 15},
		"rbac.authorization.k8s.io": {17000, 15}, "storage.k8s.io": {16800, 15}, "apiextensions.k8s.io": {16700, 15}, "admissionregistration.k8s.io": {16700, 15},
		"scheduling.k8s.io": {16600, 15}, "coordination.k8s.io": {16500, 15}, "node.k8s.io": {16300, 15}, "discovery.k8s.io": {16200, 15},
		"resource.k8s.io": {16200, 21}, "flowcontrol.apiserver.k8s.io": {16100, 21},
	}
	autoscalingV2 = [2]int32{17500, 30}
	custom        = [2]int32{1000, 100}
)

// register makes an APIService for everything that is served here, and removes
// those of custom groups that are gone.
//
// Upstream: staging/src/k8s.io/kube-aggregator/pkg/controllers/autoregister/autoregister_controller.go, checkAPIService.
func (a *Aggregator) register(ctx context.Context) error {
	settled := a.settled() // asked before the table is read
	want := map[string]*apiregistrationv1.APIService{}
	for _, k := range a.table.All() {
		if k.Remote || k.Group == apiregistrationv1.GroupName {
			continue
		}
		want[k.Version+"."+k.Group] = local(k.GV(), k.Custom != nil)
	}
	have, err := a.registry.List(ctx, resource, "", nil)
	if err != nil {
		return err
	}
	var errs []error
	for _, obj := range have {
		s, ok := obj.(*apiregistrationv1.APIService)
		if !ok {
			continue
		}
		if settled && want[s.Name] == nil && s.Spec.Service == nil && s.Labels[managed] == "true" {
			if err := a.registry.Delete(ctx, resource, "", s.Name); !apierrors.IsNotFound(err) {
				errs = append(errs, err)
			}
		}
		delete(want, s.Name)
	}
	for _, s := range want {
		if _, err := a.registry.Create(ctx, resource, s); !apierrors.IsAlreadyExists(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func local(gv schema.GroupVersion, isCustom bool) *apiregistrationv1.APIService {
	p, label := priorities[gv.Group], "onstart"
	switch {
	case isCustom:
		p, label = custom, "true"
	case gv.Group == "autoscaling" && gv.Version == "v2":
		p = autoscalingV2
	}
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group, Labels: map[string]string{managed: label}},
		Spec:       apiregistrationv1.APIServiceSpec{Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: p[0], VersionPriority: p[1]},
	}
}
