import torch

from upernet_ext.layers.maps import map_of_tokens


def test_tokens_become_a_map_in_the_plain_order() -> None:
    tokens = torch.randn(2, 3 * 4 * 5, 7)
    found = map_of_tokens(tokens[:, :], (3, 4, 5))
    assert found.is_contiguous()
    for i in range(3):
        wanted = tokens[1, i * 20 : i * 20 + 20].view(4, 5, 7)
        torch.testing.assert_close(found[1, :, i].permute(1, 2, 0), wanted)
