"""Arrays as a sequence of bytes: every array comes back, wherever the pieces are cut."""

import ml_dtypes
import numpy as np
import pytest

from charjax.run import checkpoint_bytes
from charjax.run.checkpoint_bytes import array_readers, check_pieces, pieces
from charjax.run.checkpoint_record import DamagedError

DTYPES = (np.float32, np.int64, np.uint8, np.bool_, ml_dtypes.bfloat16)


def write(folder, arrays) -> list[int]:
    """Write the files of the pieces as orbax does; return their sizes."""
    sizes = []
    for index, piece in enumerate(pieces(arrays)):
        (folder / f"bytes-{index}").mkdir(parents=True)
        (folder / f"bytes-{index}" / "0").write_bytes(piece.tobytes())
        sizes.append(piece.size)
    return sizes


def described(arrays):
    return [(array.dtype.name, array.shape) for array in arrays]


def test_arrays_come_back_wherever_they_are_cut(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for trial in range(40):
        size = int(rng.integers(1, 60))
        monkeypatch.setattr(checkpoint_bytes, "PIECE", size)
        arrays = []
        for _ in range(rng.integers(0, 5)):
            shape = rng.integers(0, 5, size=rng.integers(0, 3)).tolist()
            array = rng.integers(0, 2, shape).astype(DTYPES[rng.integers(len(DTYPES))])
            # An array of another order in memory has the same bytes.
            arrays.append(np.asfortranarray(array) if rng.integers(2) else array)
        folder = tmp_path / str(trial)
        found = write(folder, arrays)
        total = sum(array.nbytes for array in arrays)
        assert found == [size] * (total // size) + [total % size] * (total % size > 0)
        check_pieces(folder, total)
        for read, array in zip(array_readers(folder, described(arrays)), arrays, strict=True):
            got = read()
            assert (got.dtype, got.shape) == (array.dtype, array.shape)
            assert np.array_equal(got, array)


def test_a_large_array_is_not_copied(monkeypatch):
    monkeypatch.setattr(checkpoint_bytes, "PIECE", 16)
    array = np.arange(12, dtype=np.int32)
    assert all(np.shares_memory(piece, array) for piece in pieces([array]))


@pytest.mark.parametrize("harm", ["missing", "shorter", "longer"])
@pytest.mark.parametrize("index", [0, 2])
def test_a_piece_of_another_size_is_damage(tmp_path, monkeypatch, index, harm):
    monkeypatch.setattr(checkpoint_bytes, "PIECE", 16)
    arrays = [np.arange(10, dtype=np.int32)]
    write(tmp_path / "state", arrays)
    path = tmp_path / "state" / f"bytes-{index}" / "0"
    data = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if harm == "shorter" else data + b"0")
    with pytest.raises(DamagedError, match=f"state/bytes-{index}/0 is altered"):
        array_readers(tmp_path / "state", described(arrays))
    with pytest.raises(OSError, match="the arrays of state were not written"):
        check_pieces(tmp_path / "state", arrays[0].nbytes)


def test_a_folder_that_goes_while_it_is_looked_at_is_damage(tmp_path, monkeypatch):
    arrays = [np.arange(10, dtype=np.int32)]
    write(tmp_path / "state", arrays)
    path = tmp_path / "state" / "bytes-0" / "0"
    piece_path = checkpoint_bytes.piece_path

    def remove_after(folder, index):
        path.unlink(missing_ok=True)
        return piece_path(folder, index)

    monkeypatch.setattr(checkpoint_bytes, "piece_path", remove_after)
    with pytest.raises(DamagedError, match="state/bytes-0/0 is altered"):
        array_readers(tmp_path / "state", described(arrays))


def test_a_piece_that_is_cut_while_it_is_read_is_damage(tmp_path):
    arrays = [np.arange(10, dtype=np.int32)]
    write(tmp_path / "state", arrays)
    (read,) = array_readers(tmp_path / "state", described(arrays))
    (tmp_path / "state" / "bytes-0" / "0").write_bytes(b"cut")
    with pytest.raises(DamagedError, match="state/bytes-0/0 is altered"):
        read()
