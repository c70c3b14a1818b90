//! A matrix repacked for the kernels, once, when it is loaded.
//!
//! Owns the packed bytes. Knows nothing of files but the order of bytes in a block.

use std::mem::MaybeUninit;

use crate::arena::{Arena, ArenaSlice};
use crate::blocks::WeightFormat;
use crate::disjoint::Disjoint;
use crate::panel::{
    Bfloats, EightBit, FiveBit, FiveBitOffset, FiveBitTwoLevel, FourBit, FourBitOffset,
    FourBitTwoLevel, HalfFloats, PANEL, PanelBlock, PlainWeights, Singles, SixBitTwoLevel,
};
use crate::pool::Pool;

/// A block of zeros in any format: what outputs are made of that only fill up a panel.
static ZEROS: [u8; 256] = [0; 256];

/// A matrix `[outputs, width]` in panels.
#[derive(Debug)]
pub struct PackedMatrix {
    outputs: usize,
    width: usize,
    panels: Panels,
}

/// Panels one after another; in each, block after block.
#[derive(Debug)]
pub(crate) enum Panels {
    Singles(ArenaSlice<Singles>),
    HalfFloats(ArenaSlice<HalfFloats>),
    Bfloats(ArenaSlice<Bfloats>),
    FourBit(ArenaSlice<FourBit>),
    FourBitOffset(ArenaSlice<FourBitOffset>),
    FiveBit(ArenaSlice<FiveBit>),
    FiveBitOffset(ArenaSlice<FiveBitOffset>),
    EightBit(ArenaSlice<EightBit>),
    FourBitTwoLevel(ArenaSlice<FourBitTwoLevel>),
    FiveBitTwoLevel(ArenaSlice<FiveBitTwoLevel>),
    SixBitTwoLevel(ArenaSlice<SixBitTwoLevel>),
}

impl PackedMatrix {
    /// Packs the blocks in `bytes`, `[outputs, width / format.block_weights()]`, on all threads of
    /// `pool`, into `arena`.
    ///
    /// # Panics
    /// If a row is no whole number of blocks, or the last row is incomplete.
    pub fn pack(
        pool: &Pool,
        arena: &mut Arena,
        format: WeightFormat,
        bytes: &[u8],
        width: usize,
    ) -> Self {
        let row_bytes = format.bytes_of(width).unwrap_or(0);
        assert!(row_bytes > 0, "a row is no whole number of blocks");
        assert!(bytes.len().is_multiple_of(row_bytes), "the last row is incomplete");
        let source = Source { pool, bytes, row_bytes };
        let panels = match format {
            WeightFormat::F32 => Panels::Singles(source.plain(arena)),
            WeightFormat::F16 => Panels::HalfFloats(source.plain(arena)),
            WeightFormat::Bf16 => Panels::Bfloats(source.plain(arena)),
            WeightFormat::Q4_0 => Panels::FourBit(source.blocks(arena)),
            WeightFormat::Q4_1 => Panels::FourBitOffset(source.blocks(arena)),
            WeightFormat::Q5_0 => Panels::FiveBit(source.blocks(arena)),
            WeightFormat::Q5_1 => Panels::FiveBitOffset(source.blocks(arena)),
            WeightFormat::Q8_0 => Panels::EightBit(source.blocks(arena)),
            WeightFormat::Q4K => Panels::FourBitTwoLevel(source.blocks(arena)),
            WeightFormat::Q5K => Panels::FiveBitTwoLevel(source.blocks(arena)),
            WeightFormat::Q6K => Panels::SixBitTwoLevel(source.blocks(arena)),
        };
        Self { outputs: bytes.len() / row_bytes, width, panels }
    }

    /// Rows of the matrix.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Weights in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        match &self.panels {
            Panels::Singles(items) => size_of_val(&**items),
            Panels::HalfFloats(items) => size_of_val(&**items),
            Panels::Bfloats(items) => size_of_val(&**items),
            Panels::FourBit(items) => size_of_val(&**items),
            Panels::FourBitOffset(items) => size_of_val(&**items),
            Panels::FiveBit(items) => size_of_val(&**items),
            Panels::FiveBitOffset(items) => size_of_val(&**items),
            Panels::EightBit(items) => size_of_val(&**items),
            Panels::FourBitTwoLevel(items) => size_of_val(&**items),
            Panels::FiveBitTwoLevel(items) => size_of_val(&**items),
            Panels::SixBitTwoLevel(items) => size_of_val(&**items),
        }
    }

    /// Bytes in memory of a matrix `[outputs, width]` once it is packed; `None` if a row is no
    /// whole number of blocks, or if there is no such number.
    pub fn bytes_of(format: WeightFormat, outputs: usize, width: usize) -> Option<usize> {
        let item_bytes = match format {
            WeightFormat::F32 => size_of::<Singles>(),
            WeightFormat::F16 => size_of::<HalfFloats>(),
            WeightFormat::Bf16 => size_of::<Bfloats>(),
            WeightFormat::Q4_0 => size_of::<FourBit>(),
            WeightFormat::Q4_1 => size_of::<FourBitOffset>(),
            WeightFormat::Q5_0 => size_of::<FiveBit>(),
            WeightFormat::Q5_1 => size_of::<FiveBitOffset>(),
            WeightFormat::Q8_0 => size_of::<EightBit>(),
            WeightFormat::Q4K => size_of::<FourBitTwoLevel>(),
            WeightFormat::Q5K => size_of::<FiveBitTwoLevel>(),
            WeightFormat::Q6K => size_of::<SixBitTwoLevel>(),
        };
        let items = format.bytes_of(width)? / format.block_bytes();
        outputs.div_ceil(PANEL).checked_mul(items)?.checked_mul(item_bytes)
    }

    /// Whether its products take activations as 8-bit codes.
    pub fn takes_codes(&self) -> bool {
        let plain =
            matches!(self.panels, Panels::Singles(_) | Panels::HalfFloats(_) | Panels::Bfloats(_));
        !plain
    }

    /// The weights of output `index`, `[width]`, as the values that the format defines.
    ///
    /// # Panics
    /// If there is no such output, or `out` has another length.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        assert!(index < self.outputs && out.len() == self.width, "no such row");
        let (panel, output) = (index / PANEL, index % PANEL);
        let count = self.panel_count();
        match &self.panels {
            Panels::Singles(items) => plain_row(part(items, panel, count), output, out),
            Panels::HalfFloats(items) => plain_row(part(items, panel, count), output, out),
            Panels::Bfloats(items) => plain_row(part(items, panel, count), output, out),
            Panels::FourBit(items) => block_row(part(items, panel, count), output, out),
            Panels::FourBitOffset(items) => block_row(part(items, panel, count), output, out),
            Panels::FiveBit(items) => block_row(part(items, panel, count), output, out),
            Panels::FiveBitOffset(items) => block_row(part(items, panel, count), output, out),
            Panels::EightBit(items) => block_row(part(items, panel, count), output, out),
            Panels::FourBitTwoLevel(items) => block_row(part(items, panel, count), output, out),
            Panels::FiveBitTwoLevel(items) => block_row(part(items, panel, count), output, out),
            Panels::SixBitTwoLevel(items) => block_row(part(items, panel, count), output, out),
        }
    }

    pub(crate) fn panels(&self) -> &Panels {
        &self.panels
    }

    pub(crate) fn panel_count(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }
}

/// One panel of `count`.
fn part<T>(items: &[T], panel: usize, count: usize) -> &[T] {
    let size = items.len() / count;
    &items[panel * size..(panel + 1) * size]
}

fn plain_row<W: PlainWeights>(panel: &[W], output: usize, out: &mut [f32]) {
    for (out, weights) in out.iter_mut().zip(panel) {
        *out = weights.value(output);
    }
}

fn block_row<B: PanelBlock>(panel: &[B], output: usize, out: &mut [f32]) {
    for (index, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        *out = panel[index / B::PIECES].values(index % B::PIECES, output);
    }
}

/// Rows of a file that are being packed.
struct Source<'a> {
    pool: &'a Pool,
    bytes: &'a [u8],
    row_bytes: usize,
}

impl Source<'_> {
    fn blocks<B: PanelBlock>(&self, arena: &mut Arena) -> ArenaSlice<B> {
        self.pack(arena, B::FORMAT.block_bytes(), B::pack)
    }

    fn plain<W: PlainWeights>(&self, arena: &mut Arena) -> ArenaSlice<W> {
        self.pack(arena, W::BYTES, W::pack)
    }

    /// One `T` for each panel and each `block_bytes` of its rows.
    fn pack<T: Copy + Send + Sync>(
        &self,
        arena: &mut Arena,
        block_bytes: usize,
        pack: impl Fn([&[u8]; PANEL]) -> T + Sync,
    ) -> ArenaSlice<T> {
        let outputs = self.bytes.len() / self.row_bytes;
        let (panels, blocks) = (outputs.div_ceil(PANEL), self.row_bytes / block_bytes);
        let mut packed: ArenaSlice<MaybeUninit<T>> = arena.take(panels * blocks);
        let room = Disjoint::new(&mut packed);
        self.pool.run(&|share| {
            for panel in share.part(panels, 1) {
                // SAFETY: shares do not overlap, so panels do not.
                let room = unsafe { room.part(panel * blocks..(panel + 1) * blocks) };
                for (block, room) in room.iter_mut().enumerate() {
                    let source = |output| self.block(panel * PANEL + output, block, block_bytes);
                    room.write(pack(std::array::from_fn(source)));
                }
            }
        });
        // SAFETY: the shares cover all panels, and each panel's blocks were just written.
        unsafe { packed.assume_init() }
    }

    fn block(&self, output: usize, block: usize, block_bytes: usize) -> &[u8] {
        let at = output * self.row_bytes + block * block_bytes;
        self.bytes.get(at..at + block_bytes).unwrap_or(&ZEROS[..block_bytes])
    }
}
