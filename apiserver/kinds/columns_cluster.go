package kinds

import (
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// The cells of nodes, namespaces, storage, access rights and other furniture.
//
// Upstream: pkg/printers/internalversion/printers.go.

func nodeCells(n *corev1.Node) []any {
	status := []string{"Unknown"}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			status[0] = "NotReady"
			if c.Status == corev1.ConditionTrue {
				status[0] = "Ready"
			}
		}
	}
	if n.Spec.Unschedulable {
		status = append(status, "SchedulingDisabled")
	}
	roles := namedAfter(n.Labels, "node-role.kubernetes.io/")
	if role := n.Labels["kubernetes.io/role"]; role != "" && !slices.Contains(roles, role) {
		roles = append(roles, role)
		slices.Sort(roles)
	}
	address := func(t corev1.NodeAddressType) string {
		for _, a := range n.Status.Addresses {
			if a.Type == t {
				return a.Address
			}
		}
		return none
	}
	info := &n.Status.NodeInfo
	kernel := or(info.KernelVersion, unknown)
	if info.Architecture != "" {
		kernel += " (" + info.Architecture + ")"
	}
	return []any{n.Name, strings.Join(status, ","), or(strings.Join(roles, ","), none), age(n.CreationTimestamp), info.KubeletVersion,
		address(corev1.NodeInternalIP), address(corev1.NodeExternalIP), or(info.OSImage, unknown), kernel, or(info.ContainerRuntimeVersion, unknown)}
}

func componentStatusCells(c *corev1.ComponentStatus) []any {
	cells := []any{c.Name, "Unknown", "", ""}
	for _, cond := range c.Conditions {
		if cond.Type != corev1.ComponentHealthy {
			continue
		}
		status := "Unhealthy"
		if cond.Status == corev1.ConditionTrue {
			status = "Healthy"
		}
		return []any{c.Name, status, cond.Message, cond.Error}
	}
	return cells
}

func namespaceCells(ns *corev1.Namespace) []any {
	return []any{ns.Name, string(ns.Status.Phase), age(ns.CreationTimestamp)}
}

func configMapCells(cm *corev1.ConfigMap) []any {
	return []any{cm.Name, int64(len(cm.Data) + len(cm.BinaryData)), age(cm.CreationTimestamp)}
}

func secretCells(s *corev1.Secret) []any {
	return []any{s.Name, string(s.Type), int64(len(s.Data)), age(s.CreationTimestamp)}
}

// ageCells serve the kinds of which nothing but name and age is shown.
func ageCells(o metav1.Object) []any { return []any{o.GetName(), age(o.GetCreationTimestamp())} }

// eventCells prints an event, whichever of the two event APIs its writer used.
//
// Upstream: pkg/printers/internalversion/printers.go, printEvent.
func eventCells(e *corev1.Event) []any {
	first, count := age(e.FirstTimestamp), e.Count
	if e.FirstTimestamp.IsZero() {
		first = since(e.EventTime.Time)
	}
	last := age(e.LastTimestamp)
	if e.LastTimestamp.IsZero() {
		last = first
	}
	if e.Series != nil {
		last, count = since(e.Series.LastObservedTime.Time), e.Series.Count
	} else if count == 0 {
		count = 1
	}
	target := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		target += "/" + e.InvolvedObject.Name
	}
	source := or(e.Source.Component, e.ReportingController)
	if host := or(e.Source.Host, e.ReportingInstance); host != "" {
		source += ", " + host
	}
	return []any{last, e.Type, e.Reason, target, e.InvolvedObject.FieldPath, source, strings.TrimSpace(e.Message), first, int64(count), e.Name}
}

func quotaCells(q *corev1.ResourceQuota) []any {
	var requests, limits []string
	var names []string
	for name := range q.Status.Hard {
		names = append(names, string(name))
	}
	slices.Sort(names)
	for _, name := range names {
		used, hard := q.Status.Used[corev1.ResourceName(name)], q.Status.Hard[corev1.ResourceName(name)]
		cell := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
		if strings.HasPrefix(name, "limits") {
			limits = append(limits, cell)
		} else {
			requests = append(requests, cell)
		}
	}
	return []any{q.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), age(q.CreationTimestamp)}
}

func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	short := map[corev1.PersistentVolumeAccessMode]string{
		corev1.ReadWriteOnce: "RWO", corev1.ReadOnlyMany: "ROX", corev1.ReadWriteMany: "RWX", corev1.ReadWriteOncePod: "RWOP"}
	var shown []string
	for _, m := range []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOncePod} {
		if slices.Contains(modes, m) {
			shown = append(shown, short[m])
		}
	}
	return strings.Join(shown, ",")
}

func volumeCells(pv *corev1.PersistentVolume) []any {
	phase, claim := string(pv.Status.Phase), ""
	if pv.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	if ref := pv.Spec.ClaimRef; ref != nil {
		claim = ref.Namespace + "/" + ref.Name
	}
	size := pv.Spec.Capacity[corev1.ResourceStorage]
	class := or(pv.Annotations[corev1.BetaStorageClassAnnotation], pv.Spec.StorageClassName)
	return []any{pv.Name, size.String(), accessModes(pv.Spec.AccessModes), string(pv.Spec.PersistentVolumeReclaimPolicy), phase, claim, class,
		show(pv.Spec.VolumeAttributesClassName, unset), pv.Status.Reason, age(pv.CreationTimestamp), show(pv.Spec.VolumeMode, unset)}
}

func claimCells(c *corev1.PersistentVolumeClaim) []any {
	phase, capacity, modes := string(c.Status.Phase), "", ""
	if c.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	if c.Spec.VolumeName != "" {
		size := c.Status.Capacity[corev1.ResourceStorage]
		capacity, modes = size.String(), accessModes(c.Status.AccessModes)
	}
	class := or(c.Annotations[corev1.BetaStorageClassAnnotation], show(c.Spec.StorageClassName, ""))
	return []any{c.Name, phase, c.Spec.VolumeName, capacity, modes, class,
		show(c.Spec.VolumeAttributesClassName, unset), age(c.CreationTimestamp), show(c.Spec.VolumeMode, unset)}
}

func storageClassCells(c *storagev1.StorageClass) []any {
	name := c.Name
	if isDefault(c, "storageclass.kubernetes.io/is-default-class") || isDefault(c, "storageclass.beta.kubernetes.io/is-default-class") {
		name += " (default)"
	}
	return []any{name, c.Provisioner, show(c.ReclaimPolicy, string(corev1.PersistentVolumeReclaimDelete)),
		show(c.VolumeBindingMode, string(storagev1.VolumeBindingImmediate)), c.AllowVolumeExpansion != nil && *c.AllowVolumeExpansion, age(c.CreationTimestamp)}
}

func isDefault(o metav1.Object, annotation string) bool {
	return o.GetAnnotations()[annotation] == "true"
}

func csiDriverCells(d *storagev1.CSIDriver) []any {
	var audiences, modes []string
	for _, t := range d.Spec.TokenRequests {
		audiences = append(audiences, t.Audience)
	}
	for _, m := range d.Spec.VolumeLifecycleModes {
		modes = append(modes, string(m))
	}
	is := func(p *bool, def bool) bool { return p != nil && *p || p == nil && def }
	return []any{d.Name, is(d.Spec.AttachRequired, true), is(d.Spec.PodInfoOnMount, false), is(d.Spec.StorageCapacity, false),
		or(strings.Join(audiences, ","), unset), is(d.Spec.RequiresRepublish, false), or(strings.Join(modes, ","), none), age(d.CreationTimestamp)}
}

func csiNodeCells(n *storagev1.CSINode) []any {
	return []any{n.Name, int64(len(n.Spec.Drivers)), age(n.CreationTimestamp)}
}

func attachmentCells(a *storagev1.VolumeAttachment) []any {
	return []any{a.Name, a.Spec.Attacher, show(a.Spec.Source.PersistentVolumeName, ""), a.Spec.NodeName, a.Status.Attached, age(a.CreationTimestamp)}
}

func attributesClassCells(c *storagev1.VolumeAttributesClass) []any {
	return []any{c.Name, c.DriverName, age(c.CreationTimestamp)}
}

// csrCells prints a signing request; what became of it reads like "Approved,Issued".
//
// Upstream: pkg/printers/internalversion/printers.go, printCertificateSigningRequest.
func csrCells(csr *certificatesv1.CertificateSigningRequest) []any {
	state, failed := "Pending", false
	for _, c := range csr.Status.Conditions {
		switch c.Type {
		case certificatesv1.CertificateApproved:
			if state != "Denied" {
				state = "Approved"
			}
		case certificatesv1.CertificateDenied:
			state = "Denied"
		case certificatesv1.CertificateFailed:
			failed = true
		}
	}
	if failed {
		state += ",Failed"
	}
	if len(csr.Status.Certificate) > 0 {
		state += ",Issued"
	}
	life := none
	if s := csr.Spec.ExpirationSeconds; s != nil {
		life = duration.HumanDuration(time.Duration(*s) * time.Second)
	}
	return []any{csr.Name, age(csr.CreationTimestamp), or(csr.Spec.SignerName, none), csr.Spec.Username, life, state}
}

func leaseCells(l *coordinationv1.Lease) []any {
	return []any{l.Name, show(l.Spec.HolderIdentity, ""), age(l.CreationTimestamp)}
}

func roleBindingCells(b *rbacv1.RoleBinding) []any {
	return bindingCells(b.Name, b.RoleRef, b.CreationTimestamp, b.Subjects)
}

func clusterRoleBindingCells(b *rbacv1.ClusterRoleBinding) []any {
	return bindingCells(b.Name, b.RoleRef, b.CreationTimestamp, b.Subjects)
}

func bindingCells(name string, ref rbacv1.RoleRef, created metav1.Time, subjects []rbacv1.Subject) []any {
	var users, groups, accounts []string
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			users = append(users, s.Name)
		case rbacv1.GroupKind:
			groups = append(groups, s.Name)
		case rbacv1.ServiceAccountKind:
			accounts = append(accounts, s.Namespace+"/"+s.Name)
		}
	}
	return []any{name, ref.Kind + "/" + ref.Name, age(created), strings.Join(users, ", "), strings.Join(groups, ", "), strings.Join(accounts, ", ")}
}

func priorityClassCells(c *schedulingv1.PriorityClass) []any {
	return []any{c.Name, int64(c.Value), c.GlobalDefault, age(c.CreationTimestamp), show(c.PreemptionPolicy, "")}
}

func runtimeClassCells(c *nodev1.RuntimeClass) []any {
	return []any{c.Name, c.Handler, age(c.CreationTimestamp)}
}

func resourceClaimCells(c *resourcev1.ResourceClaim) []any {
	state := "pending"
	if c.Status.Allocation != nil {
		state = "allocated"
		if len(c.Status.ReservedFor) > 0 {
			state += ",reserved"
		}
	}
	if c.DeletionTimestamp != nil {
		state = "deleted," + state
	}
	return []any{c.Name, state, age(c.CreationTimestamp)}
}

func resourceSliceCells(s *resourcev1.ResourceSlice) []any {
	return []any{s.Name, show(s.Spec.NodeName, ""), s.Spec.Driver, s.Spec.Pool.Name, age(s.CreationTimestamp)}
}
