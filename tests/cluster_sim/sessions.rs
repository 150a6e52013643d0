//! What one client says at once is done and answered in its order, wherever the leaders are.

use super::seed;
use super::world::{Plan, World};

#[test]
fn a_pipeline_is_done_in_order() {
    let mut world = World::founded(Plan::new(seed()));
    for node in world.all() {
        let client = world.connect(node);
        for text in [
            "SET a 1", "GET a", "SET a 2", "GET a", "INCR b", "GET b", "INCR b", "GET b",
        ] {
            world.send(client, text);
        }
        let patience = std::time::Duration::from_secs(5);
        let heard: Vec<String> = (0..8)
            .filter_map(|_| world.line_within(client, patience))
            .collect();
        let b = |count: usize| (2 * (node - 1) + count).to_string();
        let wanted = ["OK", "1", "OK", "2", &b(1), &b(1), &b(2), &b(2)];
        assert_eq!(heard, wanted, "node {node}");
    }
}
