//! Times of one thing, many times over.

use std::time::Duration;

/// Times in the order in which they were taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn extend(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The middle one, in milliseconds; 0 of nothing.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The time that this part of the samples does not exceed, in milliseconds, between neighbours in proportion.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
        #[expect(clippy::cast_precision_loss, reason = "a count of samples")]
        let place = part.clamp(0.0, 1.0) * last as f64;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and the count"
        )]
        let below = place.floor() as usize;
        let above = (below + 1).min(last);
        let (low, high) = (milliseconds(sorted[below]), milliseconds(sorted[above]));
        low + (high - low) * place.fract()
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        Self(times.into_iter().collect())
    }
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let samples: Samples = [40, 10, 30, 20].into_iter().map(Duration::from_millis).collect();
        assert!((samples.median() - 25.0).abs() < 1e-9);
        assert!((samples.quantile(0.0) - 10.0).abs() < 1e-9);
        assert!((samples.quantile(1.0) - 40.0).abs() < 1e-9);
        assert!((samples.quantile(0.25) - 17.5).abs() < 1e-9);
        assert!(Samples::default().median().abs() < 1e-9);
    }
}
