"""What executes the towers.

- `pytorch`: torch, on CPU and CUDA
"""
