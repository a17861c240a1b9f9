"""Memory that is lent again when nothing looks at it, and not before."""

import gc

import torch

from xlm_utils.models import buffers


def place(array):
    return array.__array_interface__["data"][0]


def test_what_a_tensor_or_a_part_still_looks_at_is_not_lent():
    buffers.forget()
    first = buffers.room(1000)
    where, tensor = place(first), torch.from_numpy(first).view(torch.bfloat16).view(10, 50)[3]
    del first
    gc.collect()
    other = buffers.room(1000)
    assert place(other) != where
    part = other[10:20]
    elsewhere = place(other)
    del other, tensor
    gc.collect()
    assert place(buffers.room(1000)) == where, "nobody looks at the first any more"
    assert place(part) == elsewhere + 10
    assert len(buffers.room(999)) == 999


def test_the_smallest_that_fits_is_lent_none_much_larger_and_none_after_forgetting():
    buffers.forget()
    large, small = buffers.room(3000), buffers.room(2500)
    places = place(large), place(small)
    del large, small
    assert place(buffers.room(1900)) not in places
    fitting, rest = buffers.room(2450), buffers.room(2460)
    assert (place(rest), place(fitting)) == places
    buffers.forget()
    del fitting, rest
    assert buffers._spare == [], "what was lent then goes back to the system, too"
