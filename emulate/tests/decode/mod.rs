// SPDX-License-Identifier: GPL-2.0

mod compare;
mod fuzz;
mod generate;
