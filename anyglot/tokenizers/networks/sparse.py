"""Features that are mostly zero, such as the words of a text: kept sparse, so that reading them costs what they hold.

`F.linear`, and so `nn.Linear` and the convolutions that begin with one, take sparse rows (CSR) as they are.
"""

import warnings

import torch
from torch import Tensor
from torch.nn import functional as F

SPARSE = 0.2  # share of numbers other than zero, up to which rows are kept sparse


def pack_features(x: Tensor) -> Tensor:
    """Features [nodes, width] as sparse rows where most are zero, else as they are."""
    if x.layout != torch.strided or float((x != 0).double().mean()) > SPARSE:
        return x
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that sparse rows are in beta state
        return x.to_sparse_csr()


def drop_features(x: Tensor, share: float, training: bool) -> Tensor:
    """Dropout of features, dense or in sparse rows."""
    if x.layout == torch.strided:
        return F.dropout(x, share, training)
    values = F.dropout(x.values(), share, training)
    return torch.sparse_csr_tensor(x.crow_indices(), x.col_indices(), values, x.shape, check_invariants=False)
