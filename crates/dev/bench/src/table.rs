//! What was measured, as a table: for each case the median and the spread of both sides, and how they stand to each
//! other. Pure, so that what the figures say is tested.

/// The values of one case on one side, in the order of the runs.
#[derive(Clone, Debug, Default)]
pub struct Samples(pub Vec<f64>);

impl Samples {
    /// The value below which `share` of the samples lie; `None` without samples.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get((sorted.len().saturating_sub(1) as f64 * share).round() as usize).copied()
    }

    /// `median (least–most)`; the spread is left out where there is but one value.
    fn show(&self) -> String {
        match (self.quantile(0.5), self.quantile(0.0), self.quantile(1.0)) {
            (Some(median), Some(least), Some(most)) if self.0.len() > 1 => {
                format!("{} ({}–{})", number(median), number(least), number(most))
            }
            (Some(only), ..) => number(only),
            _ => "—".into(),
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub case: String,
    pub unit: &'static str,
    pub ours: Samples,
    pub peer: Samples,
    /// What is to be reached, in words.
    pub goal: &'static str,
}

impl Row {
    pub fn new(case: impl Into<String>, unit: &'static str, goal: &'static str) -> Row {
        Row { case: case.into(), unit, ours: Samples::default(), peer: Samples::default(), goal }
    }

    pub fn ours(mut self, samples: Vec<f64>) -> Row {
        self.ours = Samples(samples);
        self
    }

    /// Our median in multiples of the peer's.
    fn ratio(&self) -> Option<f64> {
        Some(self.ours.quantile(0.5)? / self.peer.quantile(0.5).filter(|peer| *peer > 0.0)?)
    }

    fn cells(&self) -> [String; 6] {
        let ratio = self.ratio().map_or("—".into(), |ratio| format!("{ratio:.2}×"));
        [self.case.clone(), self.unit.into(), self.ours.show(), self.peer.show(), ratio, self.goal.into()]
    }
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        small if small >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The rows as a Markdown table with aligned columns.
pub fn show(rows: &[Row]) -> String {
    let head = ["case", "unit", "Coracle", "peer", "ratio", "goal"].map(str::to_owned);
    let lines: Vec<_> = std::iter::once(head).chain(rows.iter().map(Row::cells)).collect();
    let widths: [usize; 6] =
        std::array::from_fn(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(widths) {
            text.push_str(&format!("| {cell:width$} "));
        }
        text.push_str("|\n");
        if index == 0 {
            widths.iter().for_each(|width| text.push_str(&format!("|{}", "-".repeat(width + 2))));
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_median_spread_and_ratio() {
        let mut row = Row::new("GET", "1/s", "5×").ours(vec![300.0, 100.0, 200.0]);
        row.peer = Samples(vec![50.0]);
        assert_eq!(row.cells(), ["GET", "1/s", "200 (100–300)", "50.0", "4.00×", "5×"]);
    }

    #[test]
    fn what_was_not_measured_is_a_dash() {
        let cells = Row::new("x", "s", "").cells();
        assert_eq!([&*cells[2], &*cells[3], &*cells[4]], ["—", "—", "—"]);
    }

    #[test]
    fn quantiles_take_the_nearest_sample() {
        let samples = Samples((1..=20).map(f64::from).collect());
        assert_eq!((samples.quantile(0.99), samples.quantile(0.5)), (Some(20.0), Some(11.0)));
    }
}
