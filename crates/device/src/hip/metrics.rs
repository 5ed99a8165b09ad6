//! The firmware's table of metrics (`gpu_metrics`), whose layout the kernel numbers: which limit holds the clock back, and the
//! state of the links. Layouts are those of drivers/gpu/drm/amd/include/kgd_pp_interface.h; an unknown one says nothing.

/// What a table says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Metrics {
    pub(crate) throttle: Option<Throttle>,
    pub(crate) xgmi_lanes: Option<u16>,
    pub(crate) xgmi_gbps: Option<u16>,
    pub(crate) pcie_lanes: Option<u16>,
    /// 0.1 GT/s.
    pub(crate) pcie_speed: Option<u16>,
}

/// How a table says which limits are at work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Throttle {
    /// Now, in the numbering that is common to all chips.
    Common(u64),
    /// Now, as MI300 numbers them: [`MI300`].
    Mi300(u32),
    /// Ever-growing time spent under each of [`MI300`]: what grew since the last reading was at work.
    Residency([u32; 5]),
}

/// MI300's limits, by bit and by place in the residencies.
pub(crate) const MI300: [&str; 5] = ["prochot", "power cap", "thermal", "regulator thermal", "memory thermal"];

/// Words for the common numbering: power is in bits 0 to 15, current in 16 to 31, temperature in 32 to 45.
pub(crate) fn common(bits: u64) -> Vec<&'static str> {
    let groups = [
        (0x0000_0000_0000_ffff, "power cap"),
        (0x0000_0000_ffff_0000, "current limit"),
        (0x0000_3fff_0000_0000, "thermal"),
        (0x0000_c000_0000_0000, "prochot"),
        (0xffff_0000_0000_0000, "reliability limit"),
    ];
    groups.iter().filter(|(mask, _)| bits & mask != 0).map(|(_, word)| *word).collect()
}

/// Offsets in the layouts of each revision: throttling, then the link fields in a row (PCIe lanes and speed, xGMI lanes and speed).
const fn layout(revision: (u8, u8)) -> Option<(Kind, usize, usize)> {
    Some(match revision {
        (1, 3) => (Kind::Common, 112, 74),
        (1, 4) => (Kind::Mi300, 40, 48),
        (1, 5) => (Kind::Mi300, 104, 112),
        (1, 6) => (Kind::Residency, 36, 60),
        (1, 7 | 8) => (Kind::Residency, 44, 68),
        _ => return None,
    })
}

#[derive(Clone, Copy)]
enum Kind {
    Common,
    Mi300,
    Residency,
}

/// Reads a table. None for one that is cut short or of an unknown revision.
pub(crate) fn parse(table: &[u8]) -> Option<Metrics> {
    let u16_at = |at: usize| Some(u16::from_le_bytes(table.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(table.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(table.get(at..at + 8)?.try_into().ok()?));
    if usize::from(u16_at(0)?) > table.len() {
        return None;
    }
    let (kind, at, links) = layout((*table.get(2)?, *table.get(3)?))?;
    // All ones: the firmware does not say.
    let known = |value: Option<u16>| value.filter(|v| *v != u16::MAX);
    let throttle = match kind {
        Kind::Common => u64_at(at).filter(|v| *v != u64::MAX).map(Throttle::Common),
        Kind::Mi300 => u32_at(at).filter(|v| *v != u32::MAX).map(Throttle::Mi300),
        Kind::Residency => {
            let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|i| u32_at(at + 4 * i));
            Some(Throttle::Residency([a?, b?, c?, d?, e?]))
        }
    };
    // Before MI300 a table has no fields for xGMI.
    let xgmi = |at: usize| if matches!(kind, Kind::Common) { None } else { known(u16_at(at)) };
    Some(Metrics {
        throttle,
        pcie_lanes: known(u16_at(links)),
        pcie_speed: known(u16_at(links + 2)),
        xgmi_lanes: xgmi(links + 4),
        xgmi_gbps: xgmi(links + 6),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A table of zeros with values at offsets.
    pub(crate) fn table(revision: (u8, u8), size: u16, values: &[(usize, &[u8])]) -> Vec<u8> {
        let mut table = vec![0; usize::from(size)];
        table[..2].copy_from_slice(&size.to_le_bytes());
        (table[2], table[3]) = revision;
        for (at, bytes) in values {
            table[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        table
    }

    #[test]
    fn each_revision_has_its_fields_where_the_kernel_puts_them() {
        let links = [16u16, 320, 64, 32].map(u16::to_le_bytes).concat();
        let old = table((1, 3), 120, &[(112, &(1u64 << 36 | 1).to_le_bytes()), (74, &links[..4])]);
        let m = parse(&old).unwrap();
        assert_eq!((m.throttle, m.pcie_lanes, m.pcie_speed), (Some(Throttle::Common(1 << 36 | 1)), Some(16), Some(320)));
        assert_eq!((m.xgmi_lanes, common(1 << 36 | 1)), (None, vec!["power cap", "thermal"]));
        for (revision, at, link) in [((1, 4), 40, 48), ((1, 5), 104, 112)] {
            let m = parse(&table(revision, 400, &[(at, &2u32.to_le_bytes()), (link, &links)])).unwrap();
            assert_eq!((m.throttle, m.xgmi_lanes, m.xgmi_gbps), (Some(Throttle::Mi300(2)), Some(64), Some(32)));
        }
        for (revision, at, link) in [((1, 6), 36, 60), ((1, 7), 44, 68), ((1, 8), 44, 68)] {
            let residency = [1u32, 2, 3, 4, 5].map(u32::to_le_bytes).concat();
            let m = parse(&table(revision, 1664, &[(at, &residency), (link, &links)])).unwrap();
            assert_eq!((m.throttle, m.pcie_lanes), (Some(Throttle::Residency([1, 2, 3, 4, 5])), Some(16)));
        }
    }

    #[test]
    fn a_table_that_is_cut_short_or_unknown_says_nothing() {
        let whole = table((1, 4), 400, &[]);
        for len in 0..whole.len() {
            assert_eq!(parse(&whole[..len]), None, "{len} bytes");
        }
        assert_eq!(parse(&table((1, 9), 400, &[])), None);
        assert_eq!(parse(&table((2, 4), 200, &[])), None);
        let silent = table((1, 4), 400, &[(40, &[0xff; 16])]);
        assert_eq!(parse(&silent), Some(Metrics::default()));
        // A size that it does not have is no reason to read on.
        assert_eq!(parse(&table((1, 3), 60, &[])).unwrap().throttle, None);
    }
}
