import math

import numpy as np

from vitmem.figures import style


def test_save_writes_plain_numbers_and_empty_cells(tmp_path):
    row = [np.float64(0.1), np.float32(0.5), 3, np.int64(4), math.nan, None, "a,b"]
    style.save(style.new_figure(1, 1), tmp_path, "empty", list("abcdefg"), [row])
    assert (tmp_path / "empty.csv").read_text() == 'a,b,c,d,e,f,g\n0.1,0.5,3,4,,,"a,b"\n'
