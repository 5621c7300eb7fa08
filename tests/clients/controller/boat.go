package main

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var groupVersion = schema.GroupVersion{Group: "clients.example.com", Version: "v1"}

// BoatSpec says how many replicas of which image a boat's Deployment has.
type BoatSpec struct {
	Size  int32  `json:"size"`
	Image string `json:"image,omitempty"`
}

// BoatStatus is what the controller has seen. Cargo counts the ConfigMaps in its cache.
type BoatStatus struct {
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Ready              int32              `json:"ready"`
	Cargo              int                `json:"cargo"`
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
}

// Boat is the kind of these tests.
type Boat struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              BoatSpec   `json:"spec,omitempty"`
	Status            BoatStatus `json:"status,omitempty"`
}

// BoatList is a list of them.
type BoatList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Boat `json:"items"`
}

// DeepCopyObject is what the caches copy with.
func (b *Boat) DeepCopyObject() runtime.Object {
	out := new(Boat)
	out.TypeMeta, out.Spec, out.Status = b.TypeMeta, b.Spec, b.Status
	b.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.Status.Conditions = append([]metav1.Condition(nil), b.Status.Conditions...)
	return out
}

// DeepCopyObject is what the caches copy with.
func (l *BoatList) DeepCopyObject() runtime.Object {
	out := &BoatList{TypeMeta: l.TypeMeta}
	l.ListMeta.DeepCopyInto(&out.ListMeta)
	for i := range l.Items {
		out.Items = append(out.Items, *l.Items[i].DeepCopyObject().(*Boat))
	}
	return out
}

func addBoats(s *runtime.Scheme) error {
	s.AddKnownTypes(groupVersion, &Boat{}, &BoatList{})
	metav1.AddToGroupVersion(s, groupVersion)
	return nil
}
