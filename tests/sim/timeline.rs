//! The last things that were done in a world, drawn: a column for each node, one for all else.

use super::world::World;

/// Lines that are drawn.
const LINES_MAX: usize = 60;
const COLUMN_CHARS: usize = 26;

/// Draws what was done in a world.
pub fn draw(world: &World) -> String {
    let nodes = world.all().count();
    let mut text = format!("{:>10}  ", "seconds");
    for node in world.all() {
        text.push_str(&column(&format!("node {node}")));
    }
    text.push_str("all\n");
    let deeds = world.deeds();
    let left_out = deeds.len().saturating_sub(LINES_MAX);
    for deed in &deeds[left_out..] {
        text.push_str(&format!("{:>10.3}  ", deed.at as f64 / 1e9));
        let at = deed.node.map_or(nodes, |node| node - 1);
        for _ in 0..at {
            text.push_str(&column("·"));
        }
        // What is longer reaches over the columns behind it.
        text.push_str(&deed.what);
        let width = deed.what.chars().count();
        let behind = nodes.saturating_sub(at + width.div_ceil(COLUMN_CHARS));
        if at < nodes && behind > 0 {
            let padding = COLUMN_CHARS - width % COLUMN_CHARS;
            text.push_str(&" ".repeat(padding % COLUMN_CHARS));
            (0..behind).for_each(|_| text.push_str(&column("·")));
        }
        text.push('\n');
    }
    text + &world.status()
}

fn column(text: &str) -> String {
    format!("{text:<COLUMN_CHARS$}")
}
