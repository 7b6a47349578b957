//! Methods.
/// The name.
pub fn name(class_id: u16, method_id: u16) -> Option<&'static str> {
    (class_id == 60 && method_id == 40).then_some("basic.publish")
}
