//! Medians and how far they spread. Knows no units.

/// What many samples come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    /// The median.
    pub(crate) p50: f64,
    /// A quarter lies below.
    pub(crate) p25: f64,
    /// A quarter lies above.
    pub(crate) p75: f64,
    /// How many samples there were.
    pub(crate) samples: usize,
}

impl Spread {
    /// Of at least one sample.
    pub(crate) fn of(samples: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut all: Vec<f64> = samples.into_iter().collect();
        all.sort_by(f64::total_cmp);
        let at = |share: f64| all.get(((all.len() - 1) as f64 * share).round() as usize).copied();
        if all.is_empty() {
            return None;
        }
        Some(Spread { p50: at(0.5)?, p25: at(0.25)?, p75: at(0.75)?, samples: all.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_its_quarters_come_from_the_samples_themselves() {
        let spread = Spread::of([5.0, 1.0, 3.0, 2.0, 4.0]).unwrap();
        assert_eq!(spread, Spread { p50: 3.0, p25: 2.0, p75: 4.0, samples: 5 });
        assert_eq!(Spread::of([7.0]).unwrap(), Spread { p50: 7.0, p25: 7.0, p75: 7.0, samples: 1 });
        assert_eq!(Spread::of([]), None);
    }
}
