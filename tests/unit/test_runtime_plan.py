"""Memory is laid out as planned: margins as wide as needed, no copies where none are needed, blocks used again."""

from __future__ import annotations

import torch
from runtime_nets import NETS, Function, c2f, conv, images, settle, yolo
from torch import Tensor, nn

from slr_det.runtime.capture import capture
from slr_det.runtime.graph import Concat, Conv, Graph, Node, Pad
from slr_det.runtime.plan import Plan, make_plan, padded, view_of
from slr_det.runtime.storages import conv_margins
from slr_det.runtime.structs import Layout


def planned(model: nn.Module, *shape: int, dense: tuple[str, ...] = ()) -> tuple[Graph, Plan]:
    graph = capture(settle(model), (images(*shape),)).graph
    by_torch = {node.out: True for node in graph.nodes if isinstance(node, Conv) and node.name in dense}
    return graph, make_plan(graph, by_torch)


def layout(plan: Plan, name: str) -> Layout:
    found = plan.places[name].layout
    assert found is not None
    return found


def of_kind(graph: Graph, kind: type[Node]) -> list[Node]:
    return [node for node in graph.nodes if isinstance(node, kind)]


def test_a_layout_has_its_margins_and_its_planes_an_odd_number_of_cache_lines_apart() -> None:
    found = padded(2, 3, 62, 63, 1, 1)
    assert (found.row, found.origin) == (64, 65)
    assert found.plane >= 64 * 64 + 1 and found.plane % 16 == 0 and found.plane // 16 % 2 == 1
    memory = torch.ones(2 * found.image)
    view_of(memory, found).zero_()
    assert float(memory.sum()) == 2 * (found.image - 3 * 62 * 63)


def test_margins_are_what_a_convolution_reaches_into() -> None:
    def margins(layer: nn.Conv2d, size: int = 9) -> tuple[int, int]:
        graph = capture(settle(nn.Sequential(layer)), (images(1, 3, size, size + 2),)).graph
        (node,) = of_kind(graph, Conv)
        assert isinstance(node, Conv)
        return conv_margins(graph, node)

    assert margins(nn.Conv2d(3, 4, 3, padding=1)) == (1, 1)
    assert margins(nn.Conv2d(3, 4, (5, 3), padding=(2, 0))) == (2, 0)
    assert margins(nn.Conv2d(3, 4, 3, padding=4, dilation=4)) == (4, 4)
    assert margins(nn.Conv2d(3, 4, 1)) == (0, 0)
    assert margins(nn.Conv2d(3, 4, 3, padding=1, stride=2)) == (0, 0)  # sorted first
    assert margins(nn.Conv2d(3, 4, 2, padding=1)) == (1, 1)


def test_layers_of_one_size_have_equal_rows_so_that_sums_go_straight_to_their_places() -> None:
    graph, plan = planned(
        nn.Sequential(conv(3, 4), conv(4, 6, 1), conv(6, 4), nn.Conv2d(4, 2, 1)), 1, 3, 9, 11
    )
    rows = [layout(plan, node.out).row for node in graph.nodes]
    assert rows == [12, 12, 12, 11]  # the last is an output: contiguous
    assert [layout(plan, node.out).above for node in graph.nodes] == [1, 1, 1, 0]


def test_parts_of_a_concatenation_are_written_where_it_is() -> None:
    graph, plan = planned(yolo(), 1, 3, 32, 32)
    (joined,) = of_kind(graph, Concat)
    whole = layout(plan, joined.out)
    places = [plan.places[name] for name in joined.inputs]
    assert {place.storage for place in places} == {plan.places[joined.out].storage}
    assert [place.layout.origin - whole.origin for place in places if place.layout] == [0, 5 * whole.plane]
    assert plan.storages.copied == set()


def test_pieces_of_channels_are_no_copies_either() -> None:
    graph, plan = planned(c2f(), 1, 3, 8, 8)
    (joined,) = of_kind(graph, Concat)
    storage = plan.places[joined.out].storage
    assert plan.storages.copied == set()
    assert (
        sum(place.storage == storage for place in plan.places.values()) == 5
    )  # a half, two blocks, the input


def test_zeros_around_a_picture_are_its_margins() -> None:
    graph, plan = planned(yolo(), 1, 3, 32, 32)
    (pad,) = of_kind(graph, Pad)
    before, after = layout(plan, pad.inputs[0]), layout(plan, pad.out)
    assert plan.places[pad.out].storage == plan.places[pad.inputs[0]].storage
    assert (before.height, before.width, before.origin) == (4, 4, after.origin)
    assert (after.height, after.width, after.row) == (5, 5, before.row)


def test_a_chain_of_layers_needs_two_blocks() -> None:
    _, plan = planned(nn.Sequential(*(conv(4, 4) for _ in range(7))), 1, 4, 9, 9)
    assert len(plan.slots) == 2
    assert len(plan.slot_of) == 6  # and the last layer writes into a new output
    assert plan.bytes == 4 * sum(plan.slots)


def test_a_block_is_not_used_again_while_anything_reads_it() -> None:
    """Replay the plan: at every step, each value that is still to be read has its memory for itself."""
    for make, shape in NETS.values():
        graph, plan = planned(make(), *shape)
        root = plan.storages.root
        last = {root(name): step for step, node in enumerate(graph.nodes) for name in node.inputs}
        owner: dict[int, str] = {}
        for step, node in enumerate(graph.nodes):
            name = root(node.out)
            slot = plan.slot_of.get(plan.storage_of[name])
            if slot is not None:
                before = owner.get(slot, name)
                assert before == name or last[before] < step
                owner[slot] = name
            for read in node.inputs:
                slot = plan.slot_of.get(plan.storage_of[root(read)])
                assert slot is None or owner[slot] == root(read)


def test_outputs_alone_are_new_and_those_that_are_read_again_are_copied() -> None:
    def call(m: nn.Module, x: Tensor) -> object:
        first = m.one(x)
        return first, m.two(first)

    graph, plan = planned(Function(call, one=conv(3, 4), two=conv(4, 4)), 1, 3, 6, 6)
    one, two = (node.out for node in graph.nodes)
    assert plan.storages.fresh == {two}
    assert plan.storage_of[one] in plan.slot_of


def test_layers_that_torch_runs_one_after_the_other_need_no_memory_of_ours() -> None:
    model = nn.Sequential(conv(3, 4), conv(4, 4), conv(4, 4))
    _, plan = planned(model, 1, 3, 6, 6, dense=("0.0.weight", "1.0.weight", "2.0.weight"))
    assert plan.slots == ()
    graph, plan = planned(model, 1, 3, 6, 6, dense=("0.0.weight", "1.0.weight"))
    assert [node.out in plan.storages.loose for node in graph.nodes] == [True, False, False]
