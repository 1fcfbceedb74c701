//! Sparse files: which ranges of a file hold data.

/// A range of a file that holds data; the ranges between regions are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    /// Where it starts in the file.
    pub(crate) offset: u64,
    /// Its length in bytes.
    pub(crate) len: u64,
}

/// Checks that the regions are in order, apart, inside the file, and as long as the stored content.
///
/// Empty regions, which tar writers use to mark the end of a file, are dropped.
pub(crate) fn validate_regions(
    regions: &mut Vec<Region>,
    file_len: u64,
    content_len: u64,
) -> Result<(), &'static str> {
    let (mut end, mut total) = (0u64, 0u64);
    for region in regions.iter() {
        let region_end = region.offset.checked_add(region.len);
        let region_end = region_end.filter(|region_end| *region_end <= file_len);
        let region_end = region_end.ok_or("a sparse region lies outside the file")?;
        if region.offset < end {
            return Err("its sparse regions overlap or are out of order");
        }
        end = region_end;
        // No overflow: the regions are apart inside a file whose length is a `u64`.
        total += region.len;
    }
    if total != content_len {
        return Err("its sparse map and its stored content differ in length");
    }
    regions.retain(|region| region.len != 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ordered_regions_inside_the_file_are_valid() {
        let region = |offset, len| Region { offset, len };
        for (mut regions, file_len, content_len, is_valid) in [
            (vec![], 100, 0, true),
            (vec![], 100, 1, false),
            (vec![region(0, 10), region(10, 5), region(100, 0)], 100, 15, true),
            (vec![region(0, 10), region(9, 5)], 100, 15, false),
            (vec![region(50, 10), region(0, 5)], 100, 15, false),
            (vec![region(95, 6)], 100, 6, false),
            (vec![region(u64::MAX, 2)], u64::MAX, 2, false),
        ] {
            let valid = validate_regions(&mut regions, file_len, content_len);
            assert_eq!(valid.is_ok(), is_valid, "{regions:?}");
            assert!(!is_valid || regions.iter().all(|region| region.len != 0));
        }
    }
}
