"""ipfs_kit: the interface of the specification, with its roles, on a local store or an IPFS node."""

from torch_ipfs.kit.facade import ipfs_kit
from torch_ipfs.kit.operations import IPFSOperations
from torch_ipfs.kit.pubsub import Subscription
from torch_ipfs.kit.tasks import TrainingTask

__all__ = ["IPFSOperations", "Subscription", "TrainingTask", "ipfs_kit"]
