package crd

import (
	"fmt"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/util/sets"
)

// settle works out a definition's status: which of its names it may have beside
// the others of its group, and whether it is established. others are all
// definitions; crd is changed.
//
// Upstream: staging/src/k8s.io/apiextensions-apiserver/pkg/controller/status/naming_controller.go,
// NamingConditionController.calculateNamesAndConditions, and controller/establish/establishing_controller.go.
func settle(crd *definition, others []*definition) {
	resources, listed := taken(crd, others)
	want, have := crd.Spec.Names, &crd.Status.AcceptedNames
	accepted := condition(apiextensionsv1.NamesAccepted, apiextensionsv1.ConditionTrue, "NoConflicts", "no conflicts found")
	claim := func(name string, mine *string, used sets.Set[string], reason string) {
		if name != *mine && used.Has(name) {
			accepted = condition(apiextensionsv1.NamesAccepted, apiextensionsv1.ConditionFalse, reason, fmt.Sprintf("%q is already in use", name))
			return
		}
		*mine = name
	}
	claim(want.Plural, &have.Plural, resources, "PluralConflict")
	claim(want.Singular, &have.Singular, resources, "SingularConflict")
	if i := slices.IndexFunc(want.ShortNames, func(s string) bool { return !slices.Contains(have.ShortNames, s) && resources.Has(s) }); i >= 0 {
		accepted = condition(apiextensionsv1.NamesAccepted, apiextensionsv1.ConditionFalse, "ShortNamesConflict", fmt.Sprintf("%q is already in use", want.ShortNames[i]))
	} else {
		have.ShortNames = want.ShortNames
	}
	claim(want.Kind, &have.Kind, listed, "KindConflict")
	claim(want.ListKind, &have.ListKind, listed, "ListKindConflict")
	have.Categories = want.Categories
	apihelpers.SetCRDCondition(crd, accepted)
	switch {
	case apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established):
	case accepted.Status == apiextensionsv1.ConditionTrue:
		apihelpers.SetCRDCondition(crd, condition(apiextensionsv1.Established, apiextensionsv1.ConditionTrue, "InitialNamesAccepted", "the initial names have been accepted"))
	default:
		apihelpers.SetCRDCondition(crd, condition(apiextensionsv1.Established, apiextensionsv1.ConditionFalse, "NotAccepted", "not all names are accepted"))
	}
}

// taken are the names of resources and of kinds that others of the group have been granted.
func taken(crd *definition, others []*definition) (resources, listed sets.Set[string]) {
	resources, listed = sets.New[string](), sets.New[string]()
	for _, o := range others {
		if n := o.Status.AcceptedNames; o.Spec.Group == crd.Spec.Group && o.Name != crd.Name {
			resources.Insert(n.Plural, n.Singular)
			resources.Insert(n.ShortNames...)
			listed.Insert(n.Kind, n.ListKind)
		}
	}
	resources.Delete("")
	listed.Delete("")
	return resources, listed
}
