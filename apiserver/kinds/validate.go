package kinds

import (
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// checks collects what is wrong with an object. Its methods are one line each at the place of use, so that the validation of a kind
// reads as a list of its rules; paths and texts are upstream's.
type checks struct{ errs field.ErrorList }

var specPath = field.NewPath("spec")

func (c *checks) add(errs ...*field.Error)    { c.errs = append(c.errs, errs...) }
func (c *checks) addAll(errs field.ErrorList) { c.errs = append(c.errs, errs...) }

// required refuses an empty value; it reports whether there is one.
func (c *checks) required(value string, at *field.Path, detail string) bool {
	if value == "" {
		c.add(field.Required(at, detail))
	}
	return value != ""
}

// oneOf refuses a value that is not in the list, and an empty one as missing.
func oneOf[T ~string](c *checks, value T, at *field.Path, allowed ...T) {
	if value == "" {
		c.add(field.Required(at, ""))
	} else {
		optionOf(c, value, at, allowed...)
	}
}

// optionOf is oneOf for a value that may be empty.
func optionOf[T ~string](c *checks, value T, at *field.Path, allowed ...T) {
	if value != "" {
		listed(c, value, at, allowed...)
	}
}

// listed refuses a value that is not in the list, and an empty one too.
func listed[T ~string](c *checks, value T, at *field.Path, allowed ...T) {
	if !slices.Contains(allowed, value) {
		c.add(field.NotSupported(at, value, allowed))
	}
}

// supported refuses a value that is not in the list, as does given for one that may be left out.
func supported[T ~string](c *checks, value T, at *field.Path, allowed ...T) {
	if !slices.Contains(allowed, value) {
		c.add(field.NotSupported(at, value, allowed))
	}
}

func given[T ~string](c *checks, value *T, at *field.Path, allowed ...T) {
	if value != nil {
		supported(c, *value, at, allowed...)
	}
}

// texts turns the messages of a name check into errors.
func (c *checks) texts(value any, at *field.Path, messages []string) {
	for _, m := range messages {
		c.add(field.Invalid(at, value, m))
	}
}

// name checks a value by one of the name rules, when there is a value.
func (c *checks) name(value string, at *field.Path, rule func(string) []string) {
	if value != "" {
		c.texts(value, at, rule(value))
	}
}

// subdomain is the name rule of most kinds.
func subdomain(name string) []string { return validation.NameIsDNSSubdomain(name, false) }

// notNegative refuses less than nothing.
func (c *checks) notNegative(value int64, at *field.Path) {
	c.addAll(validation.ValidateNonnegativeField(value, at))
}

// notNegativePtr is notNegative for a number that may be left out.
func (c *checks) notNegativePtr(p *int32, at *field.Path) {
	if p != nil {
		c.notNegative(int64(*p), at)
	}
}

// port checks the number of a port.
func (c *checks) port(port int32, at *field.Path) {
	c.texts(port, at, utilvalidation.IsValidPortNum(int(port)))
}

// portOrName checks what may be the number of a port or the name of one.
func (c *checks) portOrName(port intstr.IntOrString, at *field.Path) {
	switch port.Type {
	case intstr.Int:
		c.port(port.IntVal, at)
	default:
		c.texts(port.StrVal, at, utilvalidation.IsValidPortName(port.StrVal))
	}
}

// same refuses a change of what may not change.
func (c *checks) same(value, old any, at *field.Path) {
	c.addAll(validation.ValidateImmutableField(value, old, at))
}

// labels checks a set of labels.
func (c *checks) labels(l map[string]string, at *field.Path) {
	c.addAll(metavalidation.ValidateLabels(l, at))
}

// selector checks a label selector; nil is missing when it is required.
func (c *checks) selector(s *metav1.LabelSelector, at *field.Path) {
	c.addAll(metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, at))
}

// quantity refuses a negative amount.
func (c *checks) quantity(q resource.Quantity, at *field.Path) {
	if q.Sign() < 0 {
		c.add(field.Invalid(at, q.String(), validation.IsNegativeErrorMsg))
	}
}

// percentOrCount checks a number that may be a share, such as maxUnavailable.
//
// Upstream: pkg/apis/apps/validation/validation.go, ValidatePositiveIntOrPercent.
func (c *checks) percentOrCount(v *intstr.IntOrString, at *field.Path) {
	switch {
	case v == nil:
	case v.Type == intstr.Int:
		c.notNegative(int64(v.IntVal), at)
	default:
		c.texts(*v, at, utilvalidation.IsValidPercent(v.StrVal))
	}
}

// notAboveAll refuses a share of more than everything.
func (c *checks) notAboveAll(v *intstr.IntOrString, at *field.Path) {
	if v != nil && v.Type == intstr.String && len(utilvalidation.IsValidPercent(v.StrVal)) == 0 && amount(v) > 100 {
		c.add(field.Invalid(at, *v, "must not be greater than 100%"))
	}
}

// amount is a number, or that before a percent sign; what cannot be read is 0.
func amount(v *intstr.IntOrString) (n int) {
	if v == nil {
		return 0
	}
	n, _ = strconv.Atoi(strings.TrimSuffix(v.String(), "%"))
	return n
}

// exclusive checks that of the alternatives of something, the pointers in a struct, exactly one is given. what is "volume type" and the like.
func exclusive(c *checks, source any, at *field.Path, what string) {
	v := reflect.ValueOf(source)
	given := 0
	for i := range v.NumField() {
		f := v.Field(i)
		if f.Kind() != reflect.Pointer || f.IsNil() {
			continue
		}
		if given++; given > 1 {
			tag, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			if tag == "downwardAPI" {
				tag = "downwarAPI" // as upstream spells it
			}
			c.add(field.Forbidden(at.Child(tag), "may not specify more than 1 "+what))
		}
	}
	if given == 0 {
		c.add(field.Required(at, "must specify a "+what))
	}
}

func equal(a, b any) bool { return equality.Semantic.DeepEqual(a, b) }
