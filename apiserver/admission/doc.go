// Package admission looks at every write between authorization and storage:
// plugins complete objects (tolerations, token volumes) and refuse what policy forbids.
//
//	decode → Chain.Admit → defaults, validation → Chain.Validate → store
//
// Invariant: reads never come here; the order of plugins is upstream's.
// Read next: admission.go, then one plugin a file.
package admission
