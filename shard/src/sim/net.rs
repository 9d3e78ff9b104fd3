//! The simulated network.
use super::{NodeId, World};
use std::rc::Rc;
#[derive(Default)]
pub(crate) struct Net {}
impl Net {
    pub fn partition(&self, _a: NodeId, _b: NodeId, _cut: bool) {}
    pub fn wake_all(&self) {}
    pub fn reset_between(&self, _a: NodeId, _b: NodeId) {}
    pub fn node_ended(&self, _world: &Rc<World>, _node: NodeId) {}
}
