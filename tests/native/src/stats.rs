// SPDX-License-Identifier: GPL-2.0

//! Counts of what was tested.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Cases of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// All.
    pub cases: u64,
    /// Those that ended in an exception natively.
    pub faults: u64,
}

/// Counts of many batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// By the operation's name.
    pub ops: BTreeMap<String, Count>,
    /// How often a rule was needed, by its name.
    pub rules: BTreeMap<String, u64>,
    /// Differences, and those that did not come again.
    pub failures: u64,
    /// Those of them that a second run did not have.
    pub unrepeatable: u64,
}

impl Stats {
    /// Counts a case.
    pub fn case(&mut self, op: &str, fault: bool) {
        let count = match self.ops.get_mut(op) {
            Some(count) => count,
            None => self.ops.entry(op.to_owned()).or_default(),
        };
        count.cases += 1;
        count.faults += u64::from(fault);
    }

    /// Counts a rule.
    pub fn rule(&mut self, rule: &str) {
        *self.rules.entry(rule.to_owned()).or_default() += 1;
    }

    /// All cases.
    pub fn total(&self) -> Count {
        self.ops.values().fold(Count::default(), |sum, op| Count {
            cases: sum.cases + op.cases,
            faults: sum.faults + op.faults,
        })
    }

    /// Adds those of others.
    pub fn add(&mut self, other: &Self) {
        for (op, count) in &other.ops {
            let sum = self.ops.entry(op.clone()).or_default();
            sum.cases += count.cases;
            sum.faults += count.faults;
        }
        for (rule, count) in &other.rules {
            *self.rules.entry(rule.clone()).or_default() += count;
        }
        self.failures += other.failures;
        self.unrepeatable += other.unrepeatable;
    }

    /// As lines that [`Stats::read`] understands.
    pub fn lines(&self) -> String {
        let mut text = String::new();
        for (op, count) in &self.ops {
            let _ = writeln!(text, "op {} {} {op}", count.cases, count.faults);
        }
        for (rule, count) in &self.rules {
            let _ = writeln!(text, "rule {count} {rule}");
        }
        let _ = writeln!(text, "failures {} {}", self.failures, self.unrepeatable);
        text
    }

    /// Adds a line. `None` if it is none of those.
    pub fn read(&mut self, line: &str) -> Option<()> {
        let (kind, rest) = line.split_once(' ')?;
        match kind {
            "op" => {
                let (cases, rest) = rest.split_once(' ')?;
                let (faults, op) = rest.split_once(' ')?;
                let sum = self.ops.entry(op.to_owned()).or_default();
                sum.cases += cases.parse::<u64>().ok()?;
                sum.faults += faults.parse::<u64>().ok()?;
            }
            "rule" => {
                let (count, rule) = rest.split_once(' ')?;
                *self.rules.entry(rule.to_owned()).or_default() += count.parse::<u64>().ok()?;
            }
            "failures" => {
                let (failures, unrepeatable) = rest.split_once(' ')?;
                self.failures += failures.parse::<u64>().ok()?;
                self.unrepeatable += unrepeatable.parse::<u64>().ok()?;
            }
            _ => return None,
        }
        Some(())
    }
}
