// SPDX-License-Identifier: GPL-2.0

//! Our decoder against iced-x86, and by rules of the manual.

mod compare;
mod disagreements;
mod enumerate;
mod fuzz;
mod generate;
mod operands;
mod programs;
mod rules;
mod samples;
