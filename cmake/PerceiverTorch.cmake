# LibTorch as one SYSTEM interface target. A CUDA or CPU LibTorch of 2.11 to 2.13 works; it is found
# through Torch_DIR, CMAKE_PREFIX_PATH, or the virtual environment that `make setup` fills.
if(NOT Torch_DIR AND EXISTS "${CMAKE_BINARY_DIR}/venv")
  file(GLOB _venv_torch "${CMAKE_BINARY_DIR}/venv/lib/python3*/site-packages/torch/share/cmake/Torch")
  if(_venv_torch)
    set(Torch_DIR "${_venv_torch}" CACHE PATH "Where TorchConfig.cmake is")
  endif()
endif()
find_package(Torch REQUIRED)
if(Torch_VERSION VERSION_LESS 2.11 OR Torch_VERSION VERSION_GREATER_EQUAL 2.14)
  message(WARNING "LibTorch ${Torch_VERSION} found; 2.11 to 2.13 are the versions we test")
endif()
find_package(OpenMP REQUIRED COMPONENTS CXX)

# Not the `torch` target itself: it drags -D and warning flags of its own into our rooms.
add_library(perceiver_torch INTERFACE)
set_target_properties(perceiver_torch PROPERTIES EXPORT_NAME torch)
target_include_directories(perceiver_torch SYSTEM INTERFACE
  "$<BUILD_INTERFACE:${TORCH_INCLUDE_DIRS}>")
target_link_libraries(perceiver_torch INTERFACE ${TORCH_LIBRARIES})
