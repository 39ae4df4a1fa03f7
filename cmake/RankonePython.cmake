# Python and pybind11 for the extension modules; pybind11 comes from the interpreter's own packages.
macro(rankone_find_python)
  find_package(Python 3.11 REQUIRED COMPONENTS Interpreter Development.Module)
  if(NOT pybind11_DIR)
    execute_process(COMMAND ${Python_EXECUTABLE} -m pybind11 --cmakedir
      OUTPUT_VARIABLE pybind11_hint OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  find_package(pybind11 2.13 CONFIG REQUIRED HINTS ${pybind11_hint})
endmacro()
