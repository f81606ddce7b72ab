//! Fair shares: how much of the slot table each node should hold.
//!
//! Integers only, so that every machine gets the same.

/// Something that takes a part of a total in proportion to its weight, but no
/// less than `least` and no more than `most`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Taker {
    pub weight: u64,
    pub least: u64,
    pub most: u64,
}

/// Water-fills: raises one level until the takers hold `total` together (or all
/// their `most`, if that is less). Parts are rounded up, so their sum may be
/// larger than the total by up to one for each taker.
pub(super) fn water_fill(total: u64, takers: &[Taker]) -> Vec<u64> {
    let held = |level: u128| -> u64 { takers.iter().map(|taker| part(level, *taker)).sum() };
    // At this level even the lightest taker holds its most.
    let full = takers.iter().map(|taker| u128::from(taker.most)).max();
    let (mut low, mut high) = (0, full.unwrap_or(0) << LEVEL_BITS);
    while low < high {
        let middle = low + (high - low) / 2;
        if held(middle) >= total {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    takers.iter().map(|taker| part(low, *taker)).collect()
}

/// A level is parts per weight with this many bits after the binary point.
const LEVEL_BITS: u32 = 32;

fn part(level: u128, taker: Taker) -> u64 {
    let raised = (level * u128::from(taker.weight.max(1))).div_ceil(1 << LEVEL_BITS);
    u64::try_from(raised)
        .unwrap_or(u64::MAX)
        .min(taker.most)
        .max(taker.least)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(total: u64, takers: &[(u64, u64, u64)]) -> Vec<u64> {
        let takers: Vec<_> = takers
            .iter()
            .map(|&(weight, least, most)| Taker {
                weight,
                least,
                most,
            })
            .collect();
        water_fill(total, &takers)
    }

    #[test]
    fn parts_follow_weights_within_their_bounds() {
        for (total, takers, parts) in [
            (300, vec![(1, 0, 1000); 3], vec![100, 100, 100]),
            (
                300,
                vec![(1, 0, 1000), (2, 0, 1000), (3, 0, 1000)],
                vec![50, 100, 150],
            ),
            // What one may not take, the others share.
            (
                300,
                vec![(1, 0, 100), (1, 0, 100), (4, 0, 100)],
                vec![100; 3],
            ),
            (
                200,
                vec![(1, 0, 100), (1, 0, 100), (4, 0, 100)],
                vec![50, 50, 100],
            ),
            // What one must take, the others lack.
            (300, vec![(1, 100, 100), (3, 100, 300)], vec![100, 200]),
            (90, vec![(1, 40, 100), (8, 0, 100)], vec![40, 50]),
            // More than there is room for: all are full.
            (999, vec![(1, 0, 10), (1, 0, 20)], vec![10, 20]),
            (5, vec![], vec![]),
        ] {
            assert_eq!(fill(total, &takers), parts, "{total} over {takers:?}");
        }
    }
}
