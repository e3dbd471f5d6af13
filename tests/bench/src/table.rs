// SPDX-License-Identifier: GPL-2.0

//! The results, for people and for programs.

/// A figure, or why there is none; `None` where nothing was measured.
pub(crate) type Cell = Option<Result<u64, String>>;

/// What was measured of one row.
pub(crate) struct Line {
    /// The row's name.
    pub(crate) name: &'static str,
    /// On the module.
    pub(crate) ours: Cell,
    /// On its peer.
    pub(crate) theirs: Cell,
    /// The row's planned figure.
    pub(crate) planned: Option<u64>,
}

fn number(value: Option<u64>) -> String {
    value.map_or_else(|| "-".into(), |v| v.to_string())
}

fn cell(cell: &Cell) -> String {
    match cell {
        Some(Err(_)) => "failed".into(),
        cell => number(figure(cell)),
    }
}

fn figure(cell: &Cell) -> Option<u64> {
    cell.as_ref().and_then(|cell| cell.as_ref().ok().copied())
}

fn ratio(line: &Line) -> String {
    match (figure(&line.ours), figure(&line.theirs)) {
        (Some(ours), Some(theirs)) if theirs > 0 => format!("{:.2}", ours as f64 / theirs as f64),
        _ => "-".into(),
    }
}

/// An aligned table under `heading`, with what failed below; the last column is
/// left out when no line has it.
pub(crate) fn text(heading: &str, lines: &[Line]) -> String {
    let planned = lines.iter().any(|line| line.planned.is_some());
    let mut out = format!(
        "{heading:<34} {:>9} {:>9} {:>6}",
        "kvm_spp", "kvm_intel", "ratio"
    );
    out += if planned { "  issue\n" } else { "\n" };
    for line in lines {
        let (ours, theirs) = (cell(&line.ours), cell(&line.theirs));
        let ratio = ratio(line);
        out += &format!("{:<34} {ours:>9} {theirs:>9} {ratio:>6}", line.name);
        if planned {
            out += &format!("  {:>5}", number(line.planned));
        }
        out.push('\n');
    }
    for line in lines {
        for (device, cell) in [("kvm_spp", &line.ours), ("kvm_intel", &line.theirs)] {
            if let Some(Err(why)) = cell {
                out += &format!("! {} on {device}: {why}\n", line.name);
            }
        }
    }
    out
}

/// Named tables as a JSON object. No name has a character that needs escaping.
pub(crate) fn json<L: AsRef<[Line]>>(tables: &[(&str, L)]) -> String {
    let objects: Vec<String> = tables
        .iter()
        .map(|(name, lines)| format!("\"{name}\": {}", array(lines.as_ref())))
        .collect();
    format!("{{{}}}\n", objects.join(",\n"))
}

fn array(lines: &[Line]) -> String {
    let null = |v: Option<u64>| v.map_or_else(|| "null".into(), |v| v.to_string());
    let objects: Vec<String> = lines
        .iter()
        .map(|line| {
            format!(
                "\n  {{\"name\": \"{}\", \"kvm_spp\": {}, \"kvm_intel\": {}, \"issue\": {}}}",
                line.name,
                null(figure(&line.ours)),
                null(figure(&line.theirs)),
                null(line.planned)
            )
        })
        .collect();
    format!("[{}\n]", objects.join(","))
}

#[cfg(test)]
#[path = "../tests/unit/table.rs"]
mod tests;
