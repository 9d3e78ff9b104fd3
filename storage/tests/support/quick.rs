//! How nodes of simulations are set up.

use std::time::Duration;

use culver_storage::{NodeConfig, Windows};

/// A node to which everything happens often.
pub fn quick_node(name: &str) -> NodeConfig {
    NodeConfig {
        windows: Windows {
            interactive: Duration::from_millis(2),
            delivery: Duration::from_millis(10),
            spacing: Duration::from_millis(5),
            octets: 16 << 10,
            proof: Duration::from_millis(1500),
        },
        lease: Duration::from_secs(3),
        look: Duration::from_millis(300),
        trim_objects: 8,
        trim_after: Duration::from_secs(2),
        ..NodeConfig::new(name)
    }
}
